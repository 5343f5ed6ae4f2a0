"""``ts-kernels check``."""

import argparse
import sys
from typing import Any

from . import checking, graphs, output
from .arguments import device_of, filled, kernel_names, some_operation
from .errors import SelectionError


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("check", help="compare every kernel with the reference on this machine")
    parser.add_argument("--device", type=filled, help="cpu (default) or cuda")
    parser.add_argument("--impl", type=filled, help="this kernel alone, such as triton (CPU: with TRITON_INTERPRET=1)")
    parser.add_argument("--only", default="", help="operations that start so")
    parser.add_argument("--graphs", action="store_true", help="capture each in a CUDA graph and replay other inputs")
    output.add(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    some_operation(options.only)
    if options.impl and kernel_names(options.impl, options.only) != (options.impl,):
        raise SelectionError(f"check --impl takes one kernel, got {options.impl!r}")
    impl: Any = options.impl or ("triton" if options.graphs else None)
    device = device_of(options.device or ("cuda" if options.graphs else "cpu"))
    if options.graphs and device.type != "cuda":
        raise SelectionError(f"check --graphs captures CUDA graphs, --device says {options.device}")
    outcomes = (graphs.run if options.graphs else checking.run)(device, impl, options.only)
    found = []
    for outcome in outcomes:
        print(outcome)
        found.append(outcome)
    if options.json:
        output.write(options.json, {"device": str(device), "outcomes": [outcome.as_json() for outcome in found]})
    if not found:
        print(_nothing(impl), file=sys.stderr)
        return 1
    failed = sum(not outcome.passed for outcome in found)
    print(f"{len(found)} comparisons, {failed} failed")
    return 1 if failed else 0


def _nothing(impl: str | None) -> str:
    """A check of nothing has not passed."""
    why = f"{impl} serves none of these here; `ts-kernels explain` says why" if impl else "only the reference runs here"
    return f"ts-kernels: nothing to compare: {why}"
