"""Time attention on the CPU: decode against what this run reads and multiplies, prefill against torch's attention.

    python -m tools.bench.attention [--only mla] [--context 2048] [--prompt 1024] [--threads 2] [--json FILE]

MLA decode (16 heads, latent 512, rotary part 64) has a floor: its bytes at the bandwidth or its operations at the
matrix rate, whichever takes longer. The rate is that of torch's fp32 product of matrices of 1024 x 1024. Where it has
weights (bf16, others in each call), these are a stage of their own, as no key can be scored before they are read: the
floors of both add up. Beside it stands absorbed attention in plain torch, on keys gathered from their pages and widened
to fp32 beforehand.

Paged decode must read every key and value once; its share is those bytes over its time, against the bandwidth of a
streaming sum of as many bytes with as many threads. Each call takes other rows, and each sum another part, of 192 MB,
so that neither finds its data in a cache; all of them lie in large pages, as ts-modeling's caches do. Torch's attention
gets keys and values gathered from their pages and repeated for every head beforehand. Kernel and baseline are timed in
turn, so that what else the machine does meets both; figures are the fastest tenth's end (``--quantile``). Run it on an
idle machine.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import _native, attention, mla, platform
from ts_kernels.cases.attention import PagedBatch, paged_batch
from ts_kernels.cases.common import LARGE, Maker, nbytes
from ts_kernels.cases.mla import paged_cache

from tools.bench.turns import CLOCKS, in_turn

# heads, heads of the cache, width
MODELS = {"llama-8b": (32, 8, 128), "gpt-oss": (64, 8, 64), "minimax": (48, 8, 128), "mha": (16, 16, 128)}
BYTES = 192 << 20  # larger than the caches


def in_large_pages(tensor: Tensor) -> Tensor:
    """A copy in memory that comes in pages of 2 MB, as the caches that ts-modeling makes do."""
    raw = torch.from_numpy(np.zeros(tensor.nbytes, np.uint8))
    return raw.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def make(model: str, lengths: list[int], stored: torch.dtype) -> tuple[PagedBatch, Maker]:
    """A batch in pages of 16."""
    maker = Maker(torch.float32, 0, torch.device("cpu"))
    _, shared, width = MODELS[model]
    return paged_batch(lengths, shared, (width, width), 16, maker, stored), maker


def decode(
    model: str, dtype: torch.dtype, queries: int, stored: torch.dtype, options: argparse.Namespace
) -> dict[str, object]:
    """One figure of decode: a row of ``context`` keys, another one each time."""
    heads, shared, width = MODELS[model]
    read = options.context * shared * width * 2 * stored.itemsize
    rows = BYTES // read
    batch, maker = make(model, [options.context] * rows, stored)
    q, parts = maker(queries, heads, width).to(dtype), in_large_pages(torch.ones(BYTES // 4)).view(rows, -1)
    k_cache, v_cache = in_large_pages(batch.k_cache), in_large_pages(batch.v_cache)
    tables, lengths = [batch.tables[i : i + 1] for i in range(rows)], batch.lengths[:1]
    calls: dict[str, Callable[[int], object]] = {
        "sum": lambda i: parts[i % rows].sum(),
        "decode": lambda i: attention.decode(q, k_cache, v_cache, tables[i % rows], lengths, width**-0.5),
    }
    taken = in_turn(calls, options)
    bandwidth, reached = parts[0].nbytes / taken["sum"] / 1e9, read / taken["decode"] / 1e9
    names = [str(x).removeprefix("torch.") for x in (dtype, stored)]
    name = f"decode {model} q_len {queries} {names[0]}, cache {names[1]}"
    print(
        f"{name:58}{taken['decode'] * 1e6:8.0f} us {reached:6.1f} of {bandwidth:6.1f} GB/s {reached / bandwidth:6.0%}"
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


@dataclass(frozen=True)
class Latents:
    """A case of MLA decode: rows of so many keys, queries a row, and the type of the cache."""

    operation: str
    context: int
    batch: int
    queries: int
    stored: torch.dtype

    def __str__(self) -> str:
        stored = str(self.stored).removeprefix("torch.")
        return f"mla.{self.operation} {self.batch} x {self.context} keys, q_len {self.queries}, {stored}"


ROWS = [(context, batch, queries) for context in (2048, 16384, 81920) for batch in (1, 4) for queries in (1, 4)]
LATENTS = [
    *(Latents("decode_absorbed", *row, torch.bfloat16) for row in ROWS),
    *(Latents("decode_absorbed", *row, stored) for stored in (torch.float8_e4m3fn, torch.float32) for row in ROWS[4:6]),
    *(Latents("decode", context, 1, 1, torch.bfloat16) for context in (2048, 16384)),
]


def plain_absorbed(q: Tensor, keys: Tensor, queries: int, scale: float) -> Tensor:
    """Absorbed attention of q [B, queries * heads, L+R] on keys [B, S, L+R] in plain torch."""
    scores = (q @ keys.transpose(1, 2)).mul_(scale)
    if queries > 1:
        seen = torch.ones(queries, queries, dtype=torch.bool).tril().repeat_interleave(LARGE.heads, 0)
        scores[..., -queries:].masked_fill_(~seen, -torch.inf)
    return scores.softmax(-1) @ keys[..., : LARGE.latent]


def latent_decode(case: Latents, options: argparse.Namespace) -> dict[str, object]:
    """One figure of MLA decode, of other rows each time where more than these fit into BYTES."""
    s, width, tokens = LARGE, LARGE.latent + LARGE.rope, case.batch * case.queries
    read = case.batch * case.context * width * case.stored.itemsize
    sets = max(1, BYTES // read)
    maker = Maker(torch.float32, 0, torch.device("cpu"))
    cache, tables = paged_cache(s, maker, rows=sets * case.batch, length=case.context)
    cache, tables = in_large_pages(cache.to(case.stored)), tables.view(sets, case.batch, -1)
    keys = torch.stack([cache[table.long()].flatten(0, 1) for table in tables[0]]).float()
    lengths, scale = torch.full((case.batch,), case.context, dtype=torch.int32), s.head**-0.5
    latents, ropes = maker(tokens, s.heads, s.latent, scale=s.nope**-0.5), maker(tokens, s.heads, s.rope)
    whole, wide = maker(tokens, s.heads, s.head), torch.cat((latents, ropes), -1).view(case.batch, -1, width)
    up, with_weights = maker.weight(s.heads * (s.nope + s.v), s.latent).bfloat16(), case.operation == "decode"
    weights = [mla.prepare_kv_b(up, s.heads, s.nope, s.v) for _ in range(with_weights * BYTES // up.nbytes)]
    parts, square = in_large_pages(torch.ones(BYTES // 4)).view(4, -1), torch.ones(1024, 1024)

    def kernel(number: int) -> object:
        table = tables[number % sets]
        if with_weights:
            weight = weights[number % len(weights)]
            return mla.decode(whole, cache, weight, table, lengths, scale, q_len=case.queries)
        return mla.decode_absorbed(latents, ropes, cache, table, lengths, scale, q_len=case.queries)

    calls: dict[str, Callable[[int], object]] = {
        "sum": lambda i: parts[i % 4].sum(),
        "product": lambda _: square @ square,
        "kernel": kernel,
        "torch": lambda _: plain_absorbed(wide, keys, case.queries, scale),
    }
    taken = in_turn(calls, options)
    stages = [(read + nbytes(latents, ropes, latents), 2 * tokens * s.heads * case.context * (width + s.latent))]
    if with_weights:
        stages.append((nbytes(up, whole), 2 * tokens * up.numel()))
    bandwidth, rate = parts[0].nbytes / taken["sum"], 2 * 1024**3 / taken["product"]
    floors = [{"reading": moved / bandwidth, "arithmetic": count / rate} for moved, count in stages]
    bounds = [max(floor, key=floor.__getitem__) for floor in floors]
    least = sum(floor[bound] for floor, bound in zip(floors, bounds, strict=True))
    moved, count = (sum(stage[i] for stage in stages) for i in (0, 1))
    figure = {
        "case": str(case), "us": taken["kernel"] * 1e6, "gb_s": moved / taken["kernel"] / 1e9,
        "bandwidth": bandwidth / 1e9, "gflop_s": count / taken["kernel"] / 1e9, "product_gflop_s": rate / 1e9,
        "bound": " + ".join(bounds), "percent_of_floor": 100 * least / taken["kernel"],
        "torch_us": None if with_weights else taken["torch"] * 1e6,
    }  # fmt: skip
    against = "" if with_weights else f" {taken['torch'] / taken['kernel']:6.2f}x torch"
    print(
        f"{figure['case']:62}{figure['us']:9.0f} us {figure['gb_s']:5.1f} of {bandwidth / 1e9:5.1f} GB/s, "
        f"{figure['gflop_s']:5.1f} of {rate / 1e9:5.1f} GFLOP/s: {figure['percent_of_floor']:4.0f}% of "
        f"{figure['bound']}{against}",
        flush=True,
    )
    return figure


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", choices=("", "mla", "decode", "prefill"), default="")
    parser.add_argument("--case", default="", help="MLA: only cases whose names contain this")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per figure")
    parser.add_argument("--quantile", type=float, default=0.1, help="0.5: medians")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: the calling thread's own time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread: use it with --threads 1")
    print(f"-- {platform.instruction_sets()}; {options.threads} threads")
    torch.set_num_threads(options.threads)
    _native.set_threads(options.threads)
    figures, models = [], options.models.split(",")
    if options.only in ("", "mla"):
        figures += [latent_decode(case, options) for case in LATENTS if options.case in str(case)]
    if options.only in ("", "decode"):
        for model in models:
            for dtype, queries in ((torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 4)):
                for stored in (torch.bfloat16, torch.float8_e4m3fn):
                    figures.append(decode(model, dtype, queries, stored, options))
    if options.only in ("", "prefill"):
        for model in models:
            for dtype, prefix in ((torch.float32, 0), (torch.float32, 4096), (torch.bfloat16, 0)):
                figures.append(prefill(model, dtype, prefix, options))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
