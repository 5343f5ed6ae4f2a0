"""Builds of ts_kernels.ops.gemm.triton: each weight format at the blocks of decode and of prefill."""

from ..platform import described
from . import Build
from ._targets import DEFAULT

_VALUES = {"dense": "*bf16", "int4": "*i32", "int8": "*i8", "fp8": "*u8", "mxfp4": "*i32", "nvfp4": "*i32"}
_SCALES = {"int4": "*bf16", "int8": "*bf16", "fp8": "*fp32", "mxfp4": "*u8", "nvfp4": "*u8"}
_GROUPS = {"int4": 32, "int8": 0, "mxfp4": 32, "nvfp4": 16}
_ROWS = {"decode": 16, "prefill": 128}
_DATA_CENTER = ("sm_90", "sm_100", "gfx942", "gfx950")


def aot_builds() -> list[Build]:
    """Every format, decode and prefill; INT4 also with zero points in groups of 128; the sum of K's parts; rows."""
    zeros: dict[str, object] = {"ZERO": True, "GROUP": 128}
    builds = [_linear(kind, kind, phase, DEFAULT) for kind in _VALUES for phase in _ROWS]
    builds.append(_linear("int4-zp", "int4", "decode", DEFAULT, zeros))
    builds += [_linear("int4-zp", "int4", "prefill", targets, zeros) for targets in (_DATA_CENTER, ("sm_120",))]
    # The widest numbers: as many stages as there is shared memory for.
    builds += [_linear("fp32", "dense", phase, (target,)) for phase in _ROWS for target in DEFAULT]
    add = Build(
        name="gemm.add_parts",
        kernel="gemm.triton.kernel:add_parts_kernel",
        signature={"parts": "*fp32", "bias": "*fp32", "out": "*bf16", "size": "i32", "N": "i32"},
        constexprs={"BIAS": True, "SPLIT": 8, "BLOCK": 1024},
    )
    gather = Build(
        name="gemm.gather_rows",
        kernel="gemm.triton.rows:gather_kernel",
        signature={"table": "*bf16", "ids": "*i64", "out": "*bf16", "D": "i32"},
        constexprs={"BLOCK": 2048},
        aligned=("table", "ids", "out", "D"),
    )
    return [*builds, add, gather]


def _linear(
    name: str, kind: str, phase: str, targets: tuple[str, ...], changes: dict[str, object] | None = None
) -> Build:
    """As a launch for ``targets`` has it, with K in 8 parts for decode; a name says which where they are not all."""
    from ..ops.gemm.triton.launch import blocks_of

    wide = name == "fp32"
    number, values = "*fp32" if wide else "*bf16", "*fp32" if wide else _VALUES[kind]
    constexprs: dict[str, object] = {
        "KIND": kind, "ZERO": False, "WORDS": values == "*i32", "GROUP": _GROUPS.get(kind, 0),
        "BLOCK_SCALE": kind == "fp8", "COLUMN": kind in ("int8", "nvfp4"), "UPCAST": False, **(changes or {}),
    }  # fmt: skip
    code = {"*fp32": 4.0, "*bf16": 2.0, "*i32": 0.5}.get(values, 1.0)
    sizes = (_ROWS[phase], 2048, 8192)
    blocks = blocks_of(sizes, 256, described(targets[0]), 4 if wide else 2, code, zero=bool(constexprs["ZERO"]))
    constexprs |= {"SPLIT": blocks.split, "BLOCK_M": blocks.m, "BLOCK_N": blocks.n, "BLOCK_K": blocks.k}
    whole = blocks.split == 1
    signature = {
        "x": number, "w": values, "scale": _SCALES.get(kind, "*bf16"), "zero": "*i32", "column": "*fp32",
        "bias": "*fp32", "out": number if whole else "*fp32", "M": "i32", "N": "i32", "K": "i32", "x_stride": "i32",
    }  # fmt: skip
    return Build(
        name=f"gemm.linear.{name}.{phase}" + ("" if len(targets) > 1 else f".{targets[0]}"),
        kernel="gemm.triton.kernel:linear_kernel",
        signature=signature,
        constexprs={**constexprs, "BIAS": whole},
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        # Rows and widths are multiples of 16 in every model here, and Triton then knows it.
        aligned=(*(name for name, kind in signature.items() if kind.startswith("*")), "N", "K", "x_stride"),
        targets=() if targets == DEFAULT else targets,
    )
