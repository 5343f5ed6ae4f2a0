"""Builds of ts_kernels.ops.linear_attention.triton: Qwen 3.5's heads of 128, in bf16."""

from collections.abc import Mapping

from ..platform import described
from . import Build

_KINDS = {"nvidia": ("sm_90", "sm_100"), "sm_120": ("sm_120",), "amd": ("gfx942", "gfx950")}
_STATE = {"states": "*fp32", "slots": "*i64"}
_HEADS = {"q": "*bf16", "k": "*bf16", "v": "*bf16"}
_GATES = {"a": "*bf16", "b": "*bf16", "a_log": "*fp32", "dt_bias": "*fp32"}
# What Triton specializes on at run time: without it each element of a tile is loaded by an address of its own.
_SIXTEENS = ("K", "V", "q_stride", "k_stride", "v_stride", "a_stride", "b_stride")
_STRIDES = dict.fromkeys(("q_stride", "k_stride", "v_stride", "a_stride", "b_stride"), "i32")


def aot_builds() -> list[Build]:
    """Every kernel of the family; the chunked ones as each vendor's devices run them."""
    return [*_conv(), *_delta(), *(build for kind in _KINDS for build in _chunks(kind)), *_rest()]


def _conv() -> list[Build]:
    module, shared = "linear_attention.triton.conv", {"x": "*bf16", **_STATE, "x_stride": "i32", "C": "i32"}
    spans = {"cu_q": "*i32", "fresh": "*u8"}
    return [
        Build(
            "linear_attention.conv",
            f"{module}:conv_kernel",
            {**shared, **spans, "weight": "*bf16", "out": "*bf16", "T": "i32", "R": "i32"},
            {"FRESH": True, "W": 4, "TOKENS": 16, "CHANNELS": 64, "R_PAD": 16},
            num_stages=1,
        ),
        Build(
            "linear_attention.keep",
            f"{module}:keep_kernel",
            {**shared, **spans},
            {"FRESH": True, "W": 4, "LINES": 4, "CHANNELS": 256},
            num_stages=1,
        ),
        Build(
            "linear_attention.conv_step",
            f"{module}:conv_step_kernel",
            {**shared, "weight": "*bf16", "out": "*bf16"},
            {"W": 4, "CHANNELS": 256},
            num_stages=1,
        ),
    ]


def _delta() -> list[Build]:
    signature = {**_HEADS, **_GATES, **_STATE, "out": "*bf16", **_STRIDES, "scale": "fp32"}
    sizes = dict.fromkeys(("SHARED", "G", "K", "V"), "i32")
    kernel = "linear_attention.triton.delta:step_kernel"
    step = {"K_PAD": 128, "VALUES": 32}
    return [_build("linear_attention.step", kernel, {**signature, **sizes}, step, 4)]


def _build(
    name: str, kernel: str, signature: dict[str, str], constexprs: Mapping[str, object], warps: int, *targets: str
) -> Build:
    aligned = tuple(name for name, kind in signature.items() if kind.startswith("*") or name in _SIXTEENS)
    return Build(name, kernel, signature, constexprs, warps, 1, aligned=aligned, targets=targets)


def _chunks(kind: str) -> list[Build]:
    from ..ops.linear_attention.triton.delta import values_of

    targets = _KINDS[kind]
    size, precision = (32, "ieee") if kind == "amd" else (16, "tf32")
    module = "linear_attention.triton.delta"
    shared = {"K_PAD": 128, "C": size, "R_PAD": 16, "PRECISION": precision}
    rows = {"slots": "*i64", "cu_q": "*i32", "inverses": "*fp32"} | dict.fromkeys(("SHARED", "R", "G", "K"), "i32")
    solve = {"k": "*bf16", **_GATES, **rows, "k_stride": "i32", "a_stride": "i32", "b_stride": "i32"}
    scan = {**_HEADS, **_GATES, **_STATE, **rows, **_STRIDES, "fresh": "*u8", "out": "*bf16", "scale": "fp32"}
    return [
        _build(f"linear_attention.solve.{size}.{kind}", f"{module}:solve_kernel", solve, shared, 4, *targets),
        _build(
            f"linear_attention.scan.{size}.{kind}",
            f"{module}:scan_kernel",
            {**scan, "V": "i32"},
            {**shared, "FRESH": True, "VALUES": values_of(described(targets[0]))},
            4,
            *targets,
        ),
    ]


def _rest() -> list[Build]:
    module = "linear_attention.triton.rest"
    norm = {"x": "*bf16", "z": "*bf16", "weight": "*bf16", "out": "*bf16", "x_stride": "i32", "z_stride": "i32"}
    copy = {"source": "*fp32", "target": "*fp32", "from_slots": "*i64", "to_slots": "*i64", "size": "i32"}
    return [
        Build(
            "linear_attention.gated_norm",
            f"{module}:gated_norm_kernel",
            {**norm, "T": "i32", "D": "i32", "eps": "fp32"},
            {"ROWS": 8, "BLOCK": 128},
            num_stages=1,
        ),
        Build("linear_attention.copy", f"{module}:copy_kernel", copy, {"BLOCK": 4096}, num_warps=8, num_stages=1),
    ]
