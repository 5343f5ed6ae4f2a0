"""``ts-kernels tune``."""

import argparse
import functools
from typing import Any

from . import cases, clocks, tuned, tuning
from .arguments import activations_of, device_of, filled, output_folder, seconds, sizes_of
from .registry import REGISTRY


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("tune", help="measure launch settings on this GPU and keep the best ones")
    parser.add_argument("operation")
    parser.add_argument("--shape", default="", help="sizes as heads=16,context=8192 or H=16,S=8192; others are large")
    parser.add_argument("--dtype", type=filled, default="bfloat16", help="of activations")
    parser.add_argument("--impl", type=filled, default="triton")
    parser.add_argument("--budget", type=seconds, default=0.05, help="seconds a figure")
    parser.add_argument(
        "--output", type=output_folder, default=tuned.HERE, metavar="FOLDER", help="where <device>.json is"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    REGISTRY.operation(options.operation)
    sizes, dtype = sizes_of(options.shape, cases.LARGE), activations_of(options.dtype)
    device = device_of("cuda")
    clock = functools.partial(clocks.median_us, budget=options.budget, device=device)
    path = options.output / f"{tuned.device_name()}.json"
    for entry in tuning.tune(options.operation, sizes, dtype, device, options.impl, clock):
        at = ", ".join(f"{name}={size}" for name, size in entry.dims.items())
        print(f"{entry.kernel} at {at}: {dict(entry.config)} {entry.us:.1f} us, default {entry.default_us:.1f} us")
        tuned.write(path, tuned.device_name(), [entry])
    print(f"kept in {path}")
    return 0
