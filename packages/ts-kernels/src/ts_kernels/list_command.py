"""``ts-kernels list``."""

import argparse
from dataclasses import asdict
from typing import Any

from . import benching, output, platform, plugins
from .registry import REGISTRY, KernelSpec, band_name
from .selection import OPERATIONS


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("list", help="operations and their kernels")
    output.add(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    plugins.load_all()
    native = platform.instruction_sets()
    print(native)
    for name in benching.operations():
        print(f"{name}: {OPERATIONS[name].info.summary}")
        for spec in REGISTRY.kernels(name):
            needs = str(spec.capability)
            formats = ", ".join(sorted(spec.formats)) if len(spec.formats) <= 3 else f"{len(spec.formats)} weight forms"
            print(f"  {spec.name:12} {band_name(spec.band):10} {needs:18} {formats:30} {spec.origin}")
    if options.json:
        found = [_operation(name) for name in benching.operations()]
        output.write(options.json, {"native": asdict(native), "operations": found})
    return 0


def _operation(name: str) -> dict[str, object]:
    info = OPERATIONS[name].info
    kernels = [_kernel(spec) for spec in REGISTRY.kernels(name)]
    said = {"name": name, "summary": info.summary, "dtypes": info.dtypes, "dims": info.dims}
    return {**said, "limits": [limit.text for limit in info.limits], "kernels": kernels}


def _kernel(spec: KernelSpec) -> dict[str, object]:
    said = {"name": spec.name, "band": band_name(spec.band), "needs": str(spec.capability)}
    return {**said, "formats": sorted(spec.formats), "origin": spec.origin}
