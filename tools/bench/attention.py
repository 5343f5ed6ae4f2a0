"""Time paged attention on the CPU: decode against the read bandwidth of this run, prefill against torch's attention.

    python tools/bench/attention.py [--context 2048] [--prompt 1024] [--threads 2] [--json FILE]

Decode must read every key and value once; its share is those bytes over its time, against the bandwidth of a streaming
sum of as many bytes with as many threads. Each call takes another row, and each sum another part, of 192 MB, so that
neither finds its data in a cache. Torch's attention gets keys and values gathered from their pages and repeated for
every head beforehand. Kernel and baseline are timed in turn, so that what else the machine does meets both; figures
are the fastest tenth's end (``--quantile``). Run it on an idle machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F
from ts_kernels import _native, attention, platform
from ts_kernels.cases.attention import PagedBatch, paged_batch
from ts_kernels.cases.common import Maker

# heads, heads of the cache, width
MODELS = {"llama-8b": (32, 8, 128), "gpt-oss": (64, 8, 64), "minimax": (48, 8, 128), "mha": (16, 16, 128)}
BYTES = 192 << 20  # larger than the caches


def in_turn(calls: dict[str, Callable[[int], object]], options: argparse.Namespace) -> dict[str, float]:
    """A quantile of the seconds of each call, taken in turn; a call is told its number."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end, number = time.perf_counter() + options.budget, 0
    while time.perf_counter() < end or number < 10:
        for name, call in calls.items():
            start = time.perf_counter()
            call(number)
            taken[name].append(time.perf_counter() - start)
        number += 1
    return {name: sorted(times)[int(len(times) * options.quantile)] for name, times in taken.items()}


def make(model: str, lengths: list[int], stored: torch.dtype) -> tuple[PagedBatch, Maker]:
    """A batch in pages of 16."""
    maker = Maker(torch.float32, 0, torch.device("cpu"))
    _, shared, width = MODELS[model]
    return paged_batch(lengths, shared, (width, width), 16, maker, stored), maker


def decode(model: str, dtype: torch.dtype, queries: int, options: argparse.Namespace) -> dict[str, object]:
    """One figure of decode: a row of ``context`` keys, another one each time."""
    heads, shared, width = MODELS[model]
    read = options.context * shared * width * 2 * 2
    rows = BYTES // read
    batch, maker = make(model, [options.context] * rows, torch.bfloat16)
    q, parts = maker(queries, heads, width).to(dtype), torch.ones(BYTES // 4).view(rows, -1)
    tables, lengths = [batch.tables[i : i + 1] for i in range(rows)], batch.lengths[:1]
    calls: dict[str, Callable[[int], object]] = {
        "sum": lambda i: parts[i % rows].sum(),
        "decode": lambda i: attention.decode(q, batch.k_cache, batch.v_cache, tables[i % rows], lengths, width**-0.5),
    }
    taken = in_turn(calls, options)
    bandwidth, reached = parts[0].nbytes / taken["sum"] / 1e9, read / taken["decode"] / 1e9
    name = f"decode {model} q_len {queries} {str(dtype).removeprefix('torch.')}"
    print(
        f"{name:42}{taken['decode'] * 1e6:8.0f} us {reached:6.1f} of {bandwidth:6.1f} GB/s {reached / bandwidth:6.0%}"
    )
    return {"case": name, "us": taken["decode"] * 1e6, "gb_s": reached, "bandwidth": bandwidth}


def prefill(model: str, dtype: torch.dtype, prefix: int, options: argparse.Namespace) -> dict[str, object]:
    """One figure of prefill."""
    batch, maker = make(model, [prefix + options.prompt], dtype)
    heads, shared, width = MODELS[model]
    q, cu_q = maker(options.prompt, heads, width).to(dtype), torch.tensor([0, options.prompt], dtype=torch.int32)
    k, v = (x[0].transpose(0, 1).repeat_interleave(heads // shared, 0)[None] for x in (batch.keys, batch.values))
    seen = torch.ones(options.prompt, k.shape[2], dtype=torch.bool).tril(prefix) if prefix else None
    rest = (batch.k_cache, batch.v_cache, cu_q, batch.tables, batch.lengths, width**-0.5)
    wide = q.transpose(0, 1)[None]
    calls: dict[str, Callable[[int], object]] = {
        "prefill": lambda _: attention.prefill(q, *rest),
        "torch": lambda _: F.scaled_dot_product_attention(wide, k, v, attn_mask=seen, is_causal=seen is None),
    }
    taken = in_turn(calls, options)
    name = f"prefill {model} {options.prompt} after {prefix} {str(dtype).removeprefix('torch.')}"
    ratio = taken["torch"] / taken["prefill"]
    print(f"{name:42}{taken['prefill'] * 1e3:8.1f} ms, torch {taken['torch'] * 1e3:8.1f} ms {ratio:6.2f}x")
    return {"case": name, "us": taken["prefill"] * 1e6, "torch_us": taken["torch"] * 1e6}


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", default="")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per figure")
    parser.add_argument("--quantile", type=float, default=0.1, help="0.5: medians")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"-- {platform.instruction_sets()}; {options.threads} threads")
    torch.set_num_threads(options.threads)
    _native.set_threads(options.threads)
    figures, models = [], options.models.split(",")
    if options.only in ("", "decode"):
        for model in models:
            for dtype, queries in ((torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 4)):
                figures.append(decode(model, dtype, queries, options))
    if options.only in ("", "prefill"):
        for model in models:
            for dtype, prefix in ((torch.float32, 0), (torch.float32, 4096), (torch.bfloat16, 0)):
                figures.append(prefill(model, dtype, prefix, options))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
