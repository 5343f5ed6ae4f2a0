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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
Row = dict[str, str | float]


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
    bandwidth = read_bandwidth(options)
    print(f"{isa}, {options.threads} threads, reads {bandwidth:.1f} GB/s, clock {options.clock}")
    found = [row for rows in map(int, options.rows.split(",")) for row in measure(options, rows, bandwidth)]
    if options.json:
        run = {"isa": isa, "threads": options.threads, "clock": options.clock, "read_gb_s": bandwidth, "rows": found}
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


def read_bandwidth(options: argparse.Namespace) -> float:
    """GB/s at which ``threads`` threads read 64 MB, a weight's size, out of 512 that take turns: the best of all."""
    from ts_kernels import _native

    block = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets no large pages
    block.madvise(mmap.MADV_HUGEPAGE)
    address, part = torch.frombuffer(block, dtype=torch.uint8).fill_(1).data_ptr(), TURN // options.threads
    offsets = itertools.cycle(range(0, SIZE, TURN))
    if options.threads == 1:
        return TURN / best(options, lambda: _native.read_all(address + next(offsets), TURN)) / 1e9
    with ThreadPoolExecutor(options.threads) as pool:

        def read() -> None:
            first = address + next(offsets)
            list(pool.map(lambda i: _native.read_all(first + i * part, part), range(options.threads)))

        return TURN / best(options, read) / 1e9


def measure(options: argparse.Namespace, rows: int, bandwidth: float) -> Iterator[Row]:
    """Torch, then each format, at ``rows`` rows."""
    weight = torch.randn(options.n, options.k) * options.k**-0.5
    for dtype in (torch.float32, torch.bfloat16):
        x, plain = torch.randn(rows, options.k).to(dtype), weight.to(dtype)
        name = str(dtype).removeprefix("torch.")
        theirs = best(options, functools.partial(F.linear, x, plain))
        yield report(options, rows, name, "torch", theirs, theirs, plain.nbytes, bandwidth)
        for format in options.formats.split(","):
            packed = gemm.prepare(FORMATS[format](weight))
            ours = best(options, functools.partial(gemm.linear, x, packed))
            yield report(options, rows, name, format, ours, theirs, packed.nbytes, bandwidth)


def report(
    options: argparse.Namespace,
    rows: int,
    dtype: str,
    name: str,
    own: float,
    theirs: float,
    size: int,
    bandwidth: float,
) -> Row:
    """One line: time, rates, share of the read bandwidth, and the ratio to torch in the same dtype."""
    read, rate = size / own / 1e9, 2 * rows * options.n * options.k / own / 1e9
    print(
        f"M={rows:<5}{dtype:9} {name:26}{own * 1e3:9.3f} ms {read:6.1f} GB/s ({read / bandwidth:4.0%})"
        f"{rate:8.0f} GFLOP/s {theirs / own:6.2f}x torch",
        flush=True,
    )
    return {
        "rows": rows, "dtype": dtype, "weights": name, "ms": own * 1e3, "gb_s": read, "share_of_read": read / bandwidth,
        "gflop_s": rate, "torch_ratio": theirs / own,
    }  # fmt: skip


if __name__ == "__main__":
    main()
