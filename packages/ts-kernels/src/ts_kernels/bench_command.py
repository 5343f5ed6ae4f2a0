"""``ts-kernels bench``."""

import argparse
from typing import Any

import torch

from . import benching, output, tuned
from .arguments import activations_of, device_of, filled, kernel_names, seconds, some_operation
from .errors import SelectionError

MOST_ROWS = 4096  # more than a decode step has


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "bench", help="median time of every operation, its share of the measured floor, and the ratio to plain torch"
    )
    parser.add_argument("--sizes", choices=tuple(benching.SIZES), default="miniature")
    parser.add_argument("--rows", type=int, default=1, help="tokens of a decode step")
    parser.add_argument("--only", default="", help="operations that start so")
    parser.add_argument("--device", type=filled, default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", type=filled, help="of activations: float32 (default on a CPU), bfloat16 (on a GPU)")
    parser.add_argument("--impl", type=filled, help="kernels to time, separated by commas; the chosen one if left out")
    parser.add_argument("--budget", type=seconds, default=0.15, help="seconds a figure")
    output.add(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not 1 <= options.rows <= MOST_ROWS:
        raise SelectionError(f"--rows must be from 1 to {MOST_ROWS}, got {options.rows}")
    some_operation(options.only)
    impls = kernel_names(options.impl or "", options.only)
    device = device_of(options.device)
    dtype = activations_of(options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    floor = benching.floor(device, dtype, options.budget)
    bench = benching.Bench(
        sizes=options.sizes,
        rows=options.rows,
        device=device,
        dtype=dtype,
        floor=floor,
        only=options.only,
        impls=impls,
        budget=options.budget,
    )
    name = "cpu" if device.type == "cpu" else tuned.device_name()
    rate = f"{floor.read / 1e9:.1f} GB/s read, {floor.product / 1e12:.3g} T{floor.dtype} operations/s"
    print(f"-- {name}, {options.sizes}, {options.rows} rows; measured: {rate}")
    timings = []
    for timing in benching.run(bench):
        print(timing, flush=True)
        timings.append(timing.as_json())
    if options.json:
        output.write(options.json, {**_machine(name), "floor": floor.__dict__, "timings": timings})
    return 0


def _machine(name: str) -> dict[str, object]:
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
