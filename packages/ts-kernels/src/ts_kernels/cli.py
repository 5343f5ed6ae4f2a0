"""``ts-kernels``: list what is registered, explain a choice, check kernels, time, tune and compile."""

import argparse
import os
import sys
from collections.abc import Sequence

import torch

from . import bench_command, benching, checking, goals_command, graphs, platform, plugins, tune_command
from .aot import _command as aot_command
from .arguments import device_of, dtype_of, kernel_names, pairs, size_of, some_operation
from .errors import KernelError, SelectionError
from .registry import REGISTRY, band_name
from .selection import OPERATIONS, explain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a mistake of the caller's, 1 for a failed check).

    Interrupted, it is 130, as of a shell's command.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KernelError as error:
        print(f"ts-kernels: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ts-kernels: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that is not there
        print(f"ts-kernels: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ts-kernels", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="operations and their kernels")
    listing.set_defaults(run=_list)
    why = commands.add_parser("explain", help="which kernel serves a call, and why not each other")
    why.add_argument("operation")
    why.add_argument("--shape", default="", help="sizes as NAME=SIZE,...; those left out are a small model's")
    why.add_argument("--dtype", default="", help="dtypes as ARGUMENT=DTYPE,...; the usual ones where left out")
    why.add_argument("--device", help="cpu (default), or cuda where there is one")
    why.add_argument("--arch", help="explain for a GPU that is not here: sm_90, gfx942")
    why.add_argument("--format", help="form of the weights, such as packed, dense or int4:packed")
    why.add_argument("--impl", help="explain under this override")
    why.set_defaults(run=_explain)
    check = commands.add_parser("check", help="compare every kernel with the reference on this machine")
    check.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    check.add_argument("--impl", help="this kernel alone, such as triton (on a CPU: with TRITON_INTERPRET=1)")
    check.add_argument("--only", default="", help="operations that start so")
    check.add_argument("--graphs", action="store_true", help="capture each in a CUDA graph and replay other inputs")
    check.set_defaults(run=_check)
    bench_command.add(commands)
    goals_command.add(commands)
    tune_command.add(commands)
    aot_command.add(commands)
    return parser


def _list(options: argparse.Namespace) -> int:
    plugins.load_all()
    print(platform.instruction_sets())
    for name in benching.operations():
        print(f"{name}: {OPERATIONS[name].info.summary}")
        for spec in REGISTRY.kernels(name):
            needs = str(spec.capability)
            formats = ", ".join(sorted(spec.formats)) if len(spec.formats) <= 3 else f"{len(spec.formats)} weight forms"
            print(f"  {spec.name:12} {band_name(spec.band):10} {needs:18} {formats:30} {spec.origin}")
    return 0


# A small model's, for sizes and dtypes that the command line leaves out: by name, or by operation or family and name.
_SIZES = {
    "C": 256, "D": 256, "E": 16, "G": 4, "H": 4, "H_kv": 2, "I": 128, "K": 256, "L": 64, "N": 32, "R": 16, "V": 32,
    "W": 4, "bytes": 4096, "k": 4, "n": 5, "page_size": 16, "q_len": 1, "sinks": 0, "soft_cap": 0, "window": 0,
    "attention.D": 32, "linear_attention.K": 32, "sampling.K": 3, "sampling.V": 6144,
}  # fmt: skip
_DTYPES = {"ids": torch.int32, "counts": torch.int16, "logits": torch.float32, "bias": torch.float32}
_FORMATS = {
    "gemm.linear": "packed", "gemm.mlp": "packed", "moe.experts": "int4:packed", "mla.decode": "packed",
    "mla.prefill": "packed",
}  # fmt: skip


def _size(operation: str, name: str) -> int:
    return _SIZES.get(f"{operation.partition('.')[0]}.{name}", _SIZES[name])


def _explain(options: argparse.Namespace) -> int:
    REGISTRY.operation(options.operation)
    operation = OPERATIONS[options.operation]
    sizes = {name: size_of(name, text) for name, text in pairs(options.shape, "--shape").items()}
    dtypes = {name: dtype_of(text) for name, text in pairs(options.dtype, "--dtype").items()}
    for given, known in ((sizes, operation.info.dims), (dtypes, operation.info.dtypes)):
        for name in given:
            if name not in known:
                raise SelectionError(f"{operation.name} knows {', '.join(known)}; there is no {name!r}")
    info = _device(options.device, options.arch)
    usual = torch.float32 if info.type == "cpu" else torch.bfloat16
    query = operation.query(
        info,
        tuple(dtypes.get(name, _DTYPES.get(name, usual)) for name in operation.info.dtypes),
        tuple(sizes[name] if name in sizes else _size(operation.name, name) for name in operation.info.dims),
        options.format or _format(operation.name, info),
    )
    _check_form(operation.name, query.format)
    explanation = explain(query, options.impl)
    print(explanation.report())
    return 0 if explanation.winner else 1


def _check_form(operation: str, form: str) -> None:
    """Some kernel takes weights so; a form that none takes is a slip of the pen."""
    plugins.load_all()
    known = {known for spec in REGISTRY.kernels(operation) for known in spec.formats}
    if form not in known:
        plain = sorted(name for name in known if "+shared" not in name)
        raise SelectionError(f"--format: no kernel of {operation} takes {form!r}; they take {', '.join(plain)}")


def _device(name: str | None, arch: str | None) -> platform.DeviceInfo:
    if arch is not None:
        if name not in (None, "cuda"):
            raise SelectionError(f"--arch is of a GPU, --device says {name}")
        return platform.described(arch)
    return platform.device_info(device_of(name or "cpu", " (for another's: --arch sm_90, --arch gfx942)"))


def _format(operation: str, device: platform.DeviceInfo) -> str:
    """The form that weights have on this device unless asked otherwise: packing is for the CPU's kernels."""
    usual = _FORMATS.get(operation, "dense")
    return usual if device.type == "cpu" else usual.replace(":packed", ":source").replace("packed", "dense")


def _check(options: argparse.Namespace) -> int:
    failed = compared = 0
    some_operation(options.only)
    if options.impl and kernel_names(options.impl, options.only) != (options.impl,):
        raise SelectionError(f"check --impl takes one kernel, got {options.impl!r}")
    device = device_of("cuda" if options.graphs else options.device)
    if options.graphs:
        outcomes = graphs.run(device, options.impl or "triton", options.only)
    else:
        outcomes = checking.run(device, options.impl, options.only)
    for outcome in outcomes:
        compared += 1
        failed += not outcome.passed
        dtype = str(outcome.dtype).removeprefix("torch.")
        verdict = "ok" if outcome.passed else f"FAILED {outcome.failure}".rstrip()
        print(f"{outcome.label:32} {outcome.kernel:10} {outcome.isa:9} {dtype:9} {outcome.error:9.2e} {verdict}")
    if compared:
        print(f"{compared} comparisons, {failed} failed")
    elif options.impl:
        print(f"nothing to compare: {options.impl} serves none of these here; `ts-kernels explain` says why")
    else:
        print("nothing to compare: only the reference runs here")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
