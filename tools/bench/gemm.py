"""Time linear layers of every weight format against torch and against what the machine can read and multiply.

    python tools/bench/gemm.py [--n 7168] [--k 7168] [--rows 1,512] [--threads 1] [--clock cpu] [--json FILE]

One run measures everything side by side: the bandwidth of reading memory in 2 MB pages, torch's fp32 and bf16 linear
layers, and each format with fp32 and bf16 activations. A figure is the best of several calls. With
one thread, ``--clock cpu`` counts the thread's own time, which other processes on the machine disturb less.
"""

import argparse
import functools
import itertools
import json
import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import gemm, platform, quantize

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
SIZE, TURN = 512 << 20, 64 << 20
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
Row = dict[str, Any]


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=7168)
    parser.add_argument("--k", type=int, default=7168)
    parser.add_argument("--rows", default="1,512")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--formats", default=",".join(FORMATS), help="names of formats, separated by commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread: use it with --threads 1")
    unknown = [name for name in options.formats.split(",") if name not in FORMATS]
    if unknown:
        parser.error(f"--formats {unknown[0]}: known are {', '.join(FORMATS)}")
    isa = settle(options.threads)
    probe = Probe(options)
    found = [row for rows in map(int, options.rows.split(",")) for row in measure(options, rows, probe)]
    read = probe.best_gb_s
    print(f"{isa}, {options.threads} threads, reads {read:.1f} GB/s, clock {options.clock}")
    for row in found:
        row["share_of_read"] = row["gb_s"] / read
        print(line(row))
    if options.json:
        run = {"isa": isa, "threads": options.threads, "clock": options.clock, "read_gb_s": read, "rows": found}
        options.json.write_text(json.dumps(run, indent=1) + "\n")


def settle(threads: int) -> str:
    """Set torch's and the kernels' threads; gives the instruction set in use."""
    torch.set_num_threads(threads)
    platform.configure_native()
    from ts_kernels import _native

    _native.set_threads(threads)
    return _native.isa()


def best(options: argparse.Namespace, call: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    clock = CLOCKS[options.clock]
    call()
    taken = []
    for _ in range(options.calls):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


class Probe:
    """GB/s at which the kernels' threads read 64 MB, a weight's size, out of 512 that take turns: the best of all.

    It is asked before each figure, so that what else the host does meets both.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.best_gb_s = 0.0
        self._options = options
        self._block = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared gets no large pages
        self._block.madvise(mmap.MADV_HUGEPAGE)
        self._address = torch.frombuffer(self._block, dtype=torch.uint8).fill_(1).data_ptr()
        self._offsets = itertools.cycle(range(0, SIZE, TURN))

    def read(self) -> None:
        """Read some turns."""
        from ts_kernels import _native

        seconds = best(self._options, lambda: _native.read_all(self._address + next(self._offsets), TURN))
        self.best_gb_s = max(self.best_gb_s, TURN / seconds / 1e9)


def measure(options: argparse.Namespace, rows: int, probe: Probe) -> Iterator[Row]:
    """Torch, then each format, at ``rows`` rows."""
    weight = torch.randn(options.n, options.k) * options.k**-0.5
    for dtype in (torch.float32, torch.bfloat16):
        x, plain = torch.randn(rows, options.k).to(dtype), weight.to(dtype)
        probe.read()
        theirs = best(options, functools.partial(F.linear, x, plain))
        yield row_of(options, x, "torch", theirs, theirs, plain.nbytes)
        for format in options.formats.split(","):
            packed = gemm.prepare(FORMATS[format](weight))
            probe.read()
            ours = best(options, functools.partial(gemm.linear, x, packed))
            yield row_of(options, x, format, ours, theirs, packed.nbytes)


def row_of(options: argparse.Namespace, x: Tensor, name: str, own: float, theirs: float, size: int) -> Row:
    """One figure: time, rates, and the ratio to torch in the same dtype."""
    return {
        "rows": x.shape[0], "dtype": str(x.dtype).removeprefix("torch."), "weights": name, "ms": own * 1e3,
        "gb_s": size / own / 1e9, "gflop_s": 2 * x.shape[0] * options.n * options.k / own / 1e9,
        "torch_ratio": theirs / own,
    }  # fmt: skip


def line(row: Row) -> str:
    """A row to read."""
    return (
        f"M={row['rows']:<5}{row['dtype']:9} {row['weights']:26}{row['ms']:9.3f} ms {row['gb_s']:6.1f} GB/s "
        f"({row['share_of_read']:4.0%}){row['gflop_s']:8.0f} GFLOP/s {row['torch_ratio']:6.2f}x torch"
    )


if __name__ == "__main__":
    main()
