"""ts-kernels beside llama.cpp's kernels (ggml) on the same shapes, formats of the same size, and threads, on this CPU.

    uv run --with llama-cpp-python python -m tools.bench.llama_kernels [--only mla] [--json FILE]
    python -m tools.bench.llama_kernels --library FOLDER    (one with libggml-cpu.so, built for this machine)

llama.cpp's way is taken where it has several: weights both as they are and rearranged by it for this machine, whichever
is faster. The two take turns of a few calls, with a pause between them. Both results are compared with torch's before
anything is timed: a wrong graph would be fast too. bf16 is both sides' bf16; INT4 is groups of 32 with a 16-bit scale
here and Q4_0 there; the latent cache is bf16 here and f16 there. Activations come as fp32; inside, llama.cpp rounds
them to bf16 for bf16 weights and to 8 bits for Q4_0; ts-kernels keeps them for bf16 weights, and 23 bits of them in
blocks of 32 for INT4. In "rounded" ours are rounded to bf16 in each call and results are fp32: what comes and goes, and
the precision, is then as there (a little more for INT4). In "bf16 rows" ours come and go as bf16. Run it on an idle
machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import gemm, mla, moe, platform, quantize
from ts_kernels.cases import LARGE
from ts_kernels.cases.common import Maker
from ts_kernels.cases.mla import paged_cache

from tools.bench.ggml import BF16, F16, F32, I32, Q4_0, Ggml, find

Call = Callable[[], object]
# Seconds between the two: ggml's OpenMP threads poll for milliseconds after a call, and ours would share their cores.
SETTLE = 0.02
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


@dataclass(frozen=True)
class Line:
    """Medians and bests of both in microseconds; ratios above 1 mean that ours is faster.

    On a busy machine look at the bests, with --threads 1 --clock cpu: threads that wait for each other by spinning lose
    whole time slices there.
    """

    what: str
    ours_us: float
    llama_us: float
    ratio: float
    ours_best_us: float
    llama_best_us: float
    ratio_of_bests: float

    def __str__(self) -> str:
        medians = f"{self.ours_us:10.1f} us, llama.cpp {self.llama_us:10.1f} us {self.ratio:6.2f}x"
        return f"{self.what:38} {medians}; best {self.ours_best_us:10.1f}, {self.llama_best_us:10.1f} " + (
            f"{self.ratio_of_bests:6.2f}x"
        )


@dataclass(frozen=True)
class Pair:
    """One comparison: our call, and what ggml computes for the same with the tensor that holds it."""

    what: str
    ours: Callable[[], Tensor]
    theirs: list[tuple[int, int]]
    want: Tensor
    tolerance: float


class Bench:
    """Builds the two sides of each comparison."""

    def __init__(self, ggml: Ggml, only: str) -> None:
        self.ggml, self.only = ggml, only
        self.make = Maker(torch.float32, 0, torch.device("cpu"))

    def pairs(self) -> Iterator[Pair]:
        """Every comparison whose name starts with what was asked for."""
        for n, k in ((7168, 2048), (32768, 7168), (4096, 7168)):
            for rows, format, form in product((1, 32), ("bf16", "int4"), ("", " rounded", " bf16 rows")):
                name = f"linear {format} {rows}x{n}x{k}{form}"
                if self.wanted(name):
                    yield self.linear(name, self.make(rows, k), n, quantized=format == "int4", form=form)
        for rows in (1, 16):
            if self.wanted(f"experts int4 {rows} rows"):
                yield self.experts(rows)
        for context in (2048, 16384):
            if self.wanted(f"mla decode {context} keys"):
                yield self.mla_decode(context)

    def wanted(self, what: str) -> bool:
        """Whether ``what`` was asked for."""
        return what.startswith(self.only)

    def linear(self, name: str, x: Tensor, n: int, *, quantized: bool, form: str) -> Pair:
        """x @ weight.T; ``form`` is what ours gets."""
        k = x.shape[1]
        weight = self.make.weight(n, k)
        source: Any = quantize.quantize_int4(weight) if quantized else weight
        prepared = gemm.prepare(source)
        kind, data = (Q4_0, self.ggml.quantize(weight)) if quantized else (BF16, weight)
        # It rearranges quantized weights only; a bf16 one in such a buffer makes it crash.
        theirs = [self.product(x, kind, data, n, k, repack) for repack in (False, True)[: 1 + quantized]]
        found = [graph for graph in theirs if graph]
        own = x.bfloat16() if form == " bf16 rows" else x

        def ours() -> Tensor:
            if form == " rounded":
                return gemm.linear(x.bfloat16(), prepared, out_dtype=torch.float32)
            return gemm.linear(own, prepared)

        return Pair(name, ours, found, x @ weight.float().t(), 0.2 if quantized else 0.02)

    def product(self, x: Tensor, kind: int, data: Any, n: int, k: int, repack: bool) -> tuple[int, int] | None:
        """ggml's graph of one product."""
        weights, context = self.ggml.context(), self.ggml.context()
        weight = self.ggml.tensor(weights, kind, k, n)
        if not self.place(weights, repack):
            return None
        rows = self.ggml.tensor(context, F32, k, x.shape[0])
        return self.finish(context, self.ggml("ggml_mul_mat", context, weight, rows), [(weight, data), (rows, x)])

    def place(self, context: int, repack: bool) -> bool:
        """Give a context of weights its memory, rearranging or not; False where there is no such way."""
        buffers = self.ggml.repacking() if repack else None
        if repack and not buffers:
            return False
        if buffers:
            return bool(self.ggml("ggml_backend_alloc_ctx_tensors_from_buft", context, buffers))
        return bool(self.ggml("ggml_backend_alloc_ctx_tensors", context, self.ggml.backend))

    def finish(self, context: int, result: int, data: list[tuple[int, Any]]) -> tuple[int, int]:
        """Allocate, fill, and give the graph with its result."""
        graph = self.ggml.graph(context, result)
        self.ggml("ggml_backend_alloc_ctx_tensors", context, self.ggml.backend)
        for tensor, values in data:
            self.ggml.fill(tensor, values)
        return graph, result

    def experts(self, rows: int) -> Pair:
        """Routed experts, INT4: gate and up, SiLU, down. Their sum by weight is left out of ggml's side."""
        s = LARGE
        x = self.make(rows, s.hidden)
        gate_up = self.make.weight(s.experts, 2 * s.expert_inter, s.hidden)
        down = self.make.weight(s.experts, s.hidden, s.expert_inter)
        weights = torch.full((rows, s.top_k), 1.0 / s.top_k)
        ids = torch.stack([self.make.shuffled(s.experts)[: s.top_k] for _ in range(rows)]).int()
        layer = moe.prepare_experts(quantize.quantize_int4(gate_up), quantize.quantize_int4(down))
        theirs = [self.routed(x, ids, gate_up, down, repack) for repack in (False, True)]
        each = torch.stack([_expert(x, gate_up, down, ids[:, place]) for place in range(s.top_k)], 1)
        return Pair(
            f"experts int4 {rows} rows",
            lambda: moe.experts(x, weights, ids, layer),
            [graph for graph in theirs if graph],
            each,
            0.3,
        )

    def routed(self, x: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor, repack: bool) -> tuple[int, int] | None:
        """ggml's graph of each token's experts: [hidden, experts a token, tokens]."""
        weights, context, s = self.ggml.context(), self.ggml.context(), LARGE
        up = self.ggml.tensor(weights, Q4_0, s.hidden, 2 * s.expert_inter, s.experts)
        low = self.ggml.tensor(weights, Q4_0, s.expert_inter, s.hidden, s.experts)
        if not self.place(weights, repack):
            return None
        rows = self.ggml.tensor(context, F32, s.hidden, 1, x.shape[0])
        chosen = self.ggml.tensor(context, I32, s.top_k, x.shape[0])
        both = self.ggml("ggml_mul_mat_id", context, up, rows, chosen)
        mixed = self.ggml("ggml_mul_mat_id", context, low, self.ggml("ggml_swiglu", context, both), chosen)
        packed = [(up, self.ggml.quantize(gate_up)), (low, self.ggml.quantize(down))]
        return self.finish(context, mixed, [*packed, (rows, x), (chosen, ids)])

    def mla_decode(self, keys: int) -> Pair:
        """One query of 16 heads over a latent cache, absorbed, with both parts of the up-projection."""
        s = LARGE
        source = self.make.weight(s.heads * (s.nope + s.v), s.latent)
        kv_b = mla.prepare_kv_b(source, s.heads, s.nope, s.v, keep_source=True)
        cache, tables = paged_cache(s, self.make, rows=1, length=keys)
        q, lengths, scale = self.make(1, s.heads, s.head), torch.tensor([keys], dtype=torch.int32), s.head**-0.5
        entries = cache[tables[0].long()].flatten(0, 1)[:keys]
        want = mla.decode(q, cache, kv_b, tables, lengths, scale, impl="reference")
        w_uk, w_uv = kv_b.split()
        graph = self.latent_attention(q, entries, w_uk.bfloat16(), w_uv.bfloat16(), scale)
        return Pair(
            f"mla decode {keys} keys",
            lambda: mla.decode(q, cache, kv_b, tables, lengths, scale),
            [graph],
            want.view(1, s.heads, s.v),
            0.04,  # it sums in f16
        )

    def latent_attention(self, q: Tensor, entries: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float) -> tuple[int, int]:
        """ggml's graph, as llama.cpp builds it for DeepSeek-V2: one head of keys that all queries share."""
        g, s, (keys, width) = self.ggml, LARGE, entries.shape
        context = g.context()
        nope, rope = g.tensor(context, F32, s.nope, 1, s.heads), g.tensor(context, F32, s.rope, 1, s.heads)
        up, down = g.tensor(context, BF16, s.nope, s.latent, s.heads), g.tensor(context, BF16, s.latent, s.v, s.heads)
        k = g.tensor(context, F16, width, keys, 1)
        query = g("ggml_concat", context, g("ggml_mul_mat", context, up, nope), rope, 0)
        v = g("ggml_view_3d", context, k, s.latent, keys, 1, 2 * width, 2 * width * keys, 0)
        mixed = g("ggml_flash_attn_ext", context, query, k, v, None, scale, 0.0, 0.0)
        out = g("ggml_mul_mat", context, down, g("ggml_permute", context, mixed, 0, 2, 1, 3))
        parts = [(nope, q[0, :, : s.nope]), (rope, q[0, :, s.nope :]), (up, w_uk.transpose(1, 2)), (down, w_uv)]
        return self.finish(context, out, [*parts, (k, entries.half())])


def _expert(x: Tensor, gate_up: Tensor, down: Tensor, ids: Tensor) -> Tensor:
    rows = []
    for row, expert in zip(x, ids.tolist(), strict=True):
        gate, up = F.linear(row, gate_up[expert].float()).chunk(2)
        rows.append(F.linear(F.silu(gate) * up, down[expert].float()))
    return torch.stack(rows)


def compare(ggml: Ggml, pair: Pair, budget: float, clock: Callable[[], float]) -> Line:
    """Check both results, then time the calls in turn."""
    for graph, result in pair.theirs:
        ggml.compute(graph)
        _close(ggml.read(result, *pair.want.shape), pair.want, pair, "llama.cpp")
    ours = pair.ours()
    mean = pair.want.mean(1) if pair.what.startswith("experts") else pair.want
    _close(ours.view_as(mean), mean, pair, "ts-kernels")
    calls: list[Call] = [pair.ours, *(lambda graph=graph: ggml.compute(graph) for graph, _ in pair.theirs)]
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + budget * len(calls)
    while len(taken[0]) < 9 or time.perf_counter() < end:
        for times, call in zip(taken, calls, strict=True):
            time.sleep(SETTLE)
            call()  # wakes its threads
            times.extend(_timed(call, clock) for _ in range(3))
    mine, *others = (statistics.median(times) * 1e6 for times in taken)
    best, *bests = (min(times) * 1e6 for times in taken)
    return Line(pair.what, mine, min(others), min(others) / mine, best, min(bests), min(bests) / best)


def _timed(call: Call, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def _close(have: Tensor, want: Tensor, pair: Pair, side: str) -> None:
    error = float((have - want).abs().max() / want.abs().max())
    if not error <= pair.tolerance:
        raise SystemExit(f"{pair.what}: {side} differs from torch by {error:.2g}, allowed {pair.tolerance}")


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="folder with libggml-cpu.so")
    parser.add_argument("--only", default="")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a figure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: the calling thread's own time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread: use it with --threads 1")
    torch.set_num_threads(options.threads)
    if platform.native_error() is not None:
        raise SystemExit(f"nothing to compare: {platform.instruction_sets()}")
    platform.configure_native()  # with as many; torch's own threads would poll beside them after each rounding
    torch.set_num_threads(1)
    ggml = Ggml(find(options.library), options.threads)
    print(f"-- {options.threads} threads; ggml for {', '.join(ggml.features())}; {platform.instruction_sets()}")
    lines = []
    with torch.inference_mode():
        for pair in Bench(ggml, options.only).pairs():
            lines.append(compare(ggml, pair, options.budget, CLOCKS[options.clock]))
            print(lines[-1], flush=True)
    if options.json:
        content = {
            "threads": options.threads,
            "clock": options.clock,
            "ggml": ggml.features(),
            "lines": [asdict(line) for line in lines],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
