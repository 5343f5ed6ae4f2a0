"""``ts-kernels explain``."""

import argparse
from typing import Any

import torch

from . import output, platform, plugins
from .arguments import device_of, dtype_of, filled, pairs, size_of
from .errors import SelectionError
from .registry import REGISTRY, OperationInfo
from .selection import OPERATIONS, explain

# A small model's, for sizes and dtypes that the command line leaves out: by name, or by operation or family and name.
_SIZES = {
    "C": 256, "D": 256, "E": 16, "G": 4, "H": 4, "H_kv": 2, "I": 128, "K": 256, "L": 64, "N": 32, "R": 16, "V": 32,
    "W": 4, "bytes": 4096, "k": 4, "n": 5, "page_size": 16, "q_len": 1, "sinks": 0, "soft_cap": 0, "window": 0,
    "attention.D": 32, "linear_attention.K": 32, "rope.apply_2d.R": 256, "sampling.K": 3, "sampling.V": 6144,
}  # fmt: skip
_DTYPES = {"ids": torch.int32, "counts": torch.int16, "logits": torch.float32, "bias": torch.float32}
_FORMATS = {
    "gemm.linear": "packed", "gemm.mlp": "packed", "moe.experts": "int4:packed", "mla.decode": "packed",
    "mla.prefill": "packed",
}  # fmt: skip


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("explain", help="which kernel serves a call, and why not each other")
    parser.add_argument("operation")
    parser.add_argument("--shape", default="", help="sizes as NAME=SIZE,...; those left out are a small model's")
    parser.add_argument("--dtype", default="", help="dtypes as ARGUMENT=DTYPE,...; the usual ones where left out")
    parser.add_argument("--device", type=filled, help="cpu (default), or cuda where there is one")
    parser.add_argument("--arch", type=filled, help="explain for a GPU that is not here: sm_90, gfx942")
    parser.add_argument("--format", type=filled, help="form of the weights, such as packed, dense or int4:packed")
    parser.add_argument("--impl", type=filled, help="explain under this override")
    output.add(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    REGISTRY.operation(options.operation)
    operation = OPERATIONS[options.operation]
    dtypes = {name: dtype_of(text) for name, text in pairs(options.dtype, "--dtype").items()}
    _check_names(operation.name, dtypes, operation.info.dtypes)
    sizes = _sizes(operation.info, options.shape)
    info = _device(options.device, options.arch)
    usual = torch.float32 if info.type == "cpu" else torch.bfloat16
    query = operation.query(
        info,
        tuple(dtypes.get(name, _DTYPES.get(name, usual)) for name in operation.info.dtypes),
        tuple(sizes.values()),
        options.format or _format(operation.name, info),
    )
    _check_form(operation.name, query.format)
    explanation = explain(query, options.impl)
    print(explanation.report())
    if options.json:
        output.write(options.json, explanation.as_json())
    return 0 if explanation.winner else 1


def _sizes(info: OperationInfo, text: str) -> dict[str, int]:
    """Every size of the operation: those that ``text`` says, and a small model's. They are those of a possible call."""
    given = {name: size_of(name, size) for name, size in pairs(text, "--shape").items()}
    _check_names(info.name, given, info.dims)
    sizes = {name: given[name] if name in given else _usual(info.name, name) for name in info.dims}
    for refusal in info.refusals(sizes):
        usual = "" if len(given) == len(sizes) else "; sizes left out are a small model's"
        raise SelectionError(f"--shape: no call of {info.name} is like that: {refusal}{usual}")
    return sizes


def _usual(operation: str, name: str) -> int:
    family = operation.partition(".")[0]
    return next(_SIZES[key] for key in (f"{operation}.{name}", f"{family}.{name}", name) if key in _SIZES)


def _check_names(operation: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise SelectionError(f"{operation} knows {', '.join(known) or 'none'}; there is no {name!r}")


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
