"""Time linear layers of every weight format against torch and against what the machine can read and multiply.

    python -m tools.bench.gemm [--n 7168] [--k 7168] [--rows 1,512] [--threads 1] [--clock cpu] [--json FILE]

Each format is measured with fp32 and bf16 activations. Readings of 64 MB in 2 MB pages by the kernels' threads, torch's
linear layer and ours take turns of 50 ms, so that what else the host does meets all three; figures are the fastest
tenth's end of all calls (``--quantile``). Each call takes another reading place and another copy of the weight, so that
none lies in a cache. INT4 and INT8 with bf16 rows are timed beside torch's own products of these, too (INT4 with a
scale and a zero point for each group, INT8 with a scale for each row). With one thread, ``--clock cpu`` counts the
thread's own time, which other processes disturb less.
"""

import argparse
import functools
import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import gemm, platform, quantize

from tools.bench.turns import CLOCKS, in_turn

FORMATS: dict[str, Callable[[Tensor], gemm.Source]] = {
    "bf16": lambda w: w.bfloat16(),
    "int4": quantize.quantize_int4,
    "int4 of 128": lambda w: quantize.quantize_int4(w, 128),
    "int4 of 128 with zeros": lambda w: quantize.quantize_int4(w, 128, zero_point=True),
    "int8": quantize.quantize_int8,
    "fp8 block": quantize.quantize_fp8_block,
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
}
SIZE, TURN, BEYOND = 512 << 20, 64 << 20, 160 << 20
Row = dict[str, Any]
T = TypeVar("T", Tensor, gemm.LinearWeight)


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=7168)
    parser.add_argument("--k", type=int, default=7168)
    parser.add_argument("--rows", default="1,512")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per figure")
    parser.add_argument("--quantile", type=float, default=0.1, help="0.5: medians")
    parser.add_argument("--formats", default=",".join(FORMATS), help="names of formats, separated by commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread: use it with --threads 1")
    unknown = [name for name in options.formats.split(",") if name not in FORMATS]
    if unknown:
        parser.error(f"--formats {unknown[0]}: known are {', '.join(FORMATS)}")
    isa = settle(options.threads)
    print(f"{isa}, {options.threads} threads, clock {options.clock}")
    rows = []
    for count in map(int, options.rows.split(",")):
        for row in measure(options, count):
            print(line(row), flush=True)
            rows.append(row)
    if options.json:
        run = {"isa": isa, "threads": options.threads, "clock": options.clock, "rows": rows}
        options.json.write_text(json.dumps(run, indent=1) + "\n")


def settle(threads: int) -> str:
    """Set torch's and the kernels' threads; gives the instruction set in use."""
    torch.set_num_threads(threads)
    platform.configure_native()
    from ts_kernels import _native

    _native.set_threads(threads)
    return _native.isa()


def reading() -> Callable[[int], object]:
    """Reads 64 MB with the kernels' threads, the next of several."""
    from ts_kernels import _native

    block = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared gets no large pages
    block.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(block, dtype=torch.uint8).fill_(1)
    return lambda number: _native.read_all(memory.data_ptr() + number % (SIZE // TURN) * TURN, TURN)


def over(apply: Callable[[Tensor, T], object], x: Tensor, weights: list[T]) -> Callable[[int], object]:
    """Applies one of the weights, the next each time, to ``x``."""
    return lambda number: apply(x, weights[number % len(weights)])


def copies(make: Callable[[], T]) -> list[T]:
    """As many as take turns beyond any cache."""
    made = [make()]
    while len(made) * made[0].nbytes < BEYOND:
        made.append(make())
    return made


def torch_own(x: Tensor, source: gemm.Source) -> Callable[[int], object] | None:
    """Torch's product of bf16 ``x`` with a weight of this format, if it has one; its numbers do not matter here."""
    aten = torch.ops.aten
    if x.dtype != torch.bfloat16 or not isinstance(source, quantize.Int4Weight | quantize.Int8Weight):
        return None
    n, k = source.shape
    if isinstance(source, quantize.Int8Weight):
        scale, weights = torch.rand(n).bfloat16(), copies(lambda: torch.randint(-127, 128, (n, k), dtype=torch.int8))
        return lambda number: aten._weight_int8pack_mm(x, weights[number % len(weights)], scale)
    codes, factors = torch.randint(16, (n, k), dtype=torch.int32), torch.rand(k // source.group, n, 2).bfloat16()
    weights = copies(lambda: aten._convert_weight_to_int4pack_for_cpu(codes, 1))
    return lambda number: aten._weight_int4pack_mm_for_cpu(x, weights[number % len(weights)], source.group, factors)


def measure(options: argparse.Namespace, rows: int) -> Iterator[Row]:
    """Each format at ``rows`` rows, beside torch in the type of the rows."""
    weight, read = torch.randn(options.n, options.k) * options.k**-0.5, reading()
    for dtype in (torch.float32, torch.bfloat16):
        x, plain = torch.randn(rows, options.k).to(dtype), weight.to(dtype)
        theirs = over(F.linear, x, copies(plain.clone))
        for format in options.formats.split(","):
            source = FORMATS[format](weight)
            packed = copies(functools.partial(gemm.prepare, source))
            calls = {"read": read, "torch": theirs, "kernel": over(gemm.linear, x, packed)}
            own = torch_own(x, source)
            if own is not None:
                calls["torch's own"] = own
            taken = in_turn(calls, options, least=3)
            gb_s, read_gb_s = packed[0].nbytes / taken["kernel"] / 1e9, TURN / taken["read"] / 1e9
            yield {
                "rows": rows, "dtype": str(dtype).removeprefix("torch."), "weights": format,
                "ms": taken["kernel"] * 1e3, "torch_ms": taken["torch"] * 1e3, "gb_s": gb_s, "read_gb_s": read_gb_s,
                "gflop_s": 2 * rows * options.n * options.k / taken["kernel"] / 1e9,
                "torch_ratio": taken["torch"] / taken["kernel"], "share_of_read": gb_s / read_gb_s,
                "torch_own_ratio": taken["torch's own"] / taken["kernel"] if own is not None else None,
            }  # fmt: skip


def line(row: Row) -> str:
    """A row to read."""
    return (
        f"M={row['rows']:<5}{row['dtype']:9} {row['weights']:26}{row['ms']:9.3f} ms {row['gb_s']:6.1f} of "
        f"{row['read_gb_s']:5.1f} GB/s ({row['share_of_read']:4.0%}){row['gflop_s']:8.0f} GFLOP/s "
        f"{row['torch_ratio']:6.2f}x torch"
    ) + (f", {row['torch_own_ratio']:5.2f}x its own" if row["torch_own_ratio"] else "")


if __name__ == "__main__":
    main()
