"""``ts-kernels goals``."""

import argparse
from typing import Any

import torch

from . import benching, goals, output, tuned
from .arguments import device_of, filled, seconds


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "goals", help="time the calls that a GPU is judged by beside what it could do, and vendors' kernels beside ours"
    )
    parser.add_argument(
        "--device", type=filled, default="cuda", help="cuda (default), or cpu to try the same calls in little"
    )
    parser.add_argument("--budget", type=seconds, default=0.15, help="seconds a figure")
    output.add(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    device = device_of(options.device, " (to try the same calls in little: --device cpu)")
    gpu = device.type == "cuda"
    shapes, dtype = (goals.KIMI, torch.bfloat16) if gpu else (goals.TINY, torch.float32)
    floor = benching.floor(device, dtype, options.budget)
    name = tuned.device_name() if gpu else "cpu"
    print(
        f"-- {name}; measured: {floor.read / 1e12:.3g} TB/s read, {floor.product / 1e12:.3g} TFLOP/s in {floor.dtype}"
    )
    figures = []
    for figure in goals.run(shapes, device, dtype, floor, options.budget):
        print(figure, flush=True)
        figures.append(figure)
    if options.json:
        found = [figure.as_json() for figure in figures]
        output.write(options.json, {"device": name, "floor": floor.__dict__, "figures": found})
    failed = sum(bool(figure.failure) for figure in figures)
    judged = f"{sum(bool(figure.met) for figure in figures)} goals met" if gpu else "the goals are a GPU's"
    print(f"{len(figures)} figures, {judged}, {failed} failed")
    return 1 if failed else 0
