"""Builds of ts_kernels.ops.gemm.triton: each weight format at the blocks of decode and of prefill."""

from . import Build

_VALUES = {"dense": "*bf16", "int4": "*i32", "int8": "*i8", "fp8": "*u8", "mxfp4": "*i32", "nvfp4": "*i32"}
_SCALES = {"int4": "*bf16", "int8": "*bf16", "fp8": "*fp32", "mxfp4": "*u8", "nvfp4": "*u8"}
_GROUPS = {"int4": 32, "int8": 0, "mxfp4": 32, "nvfp4": 16}
_DECODE = {"SPLIT": 8, "BLOCK_M": 16, "BLOCK_N": 64}
_PREFILL = {"SPLIT": 1, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}


def aot_builds() -> list[Build]:
    """Every format, decode and prefill; INT4 also with zero points in groups of 128; the sum of K's parts; rows."""
    builds = [_linear(kind, kind, {}) for kind in _VALUES]
    builds.append(_linear("int4-zp", "int4", {"ZERO": True, "GROUP": 128}))
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
    return [build for pair in builds for build in pair] + [add, gather]


def _linear(name: str, kind: str, changes: dict[str, object]) -> tuple[Build, Build]:
    scale = _SCALES.get(kind, "*bf16")
    signature = {
        "x": "*bf16", "w": _VALUES[kind], "scale": scale, "zero": "*i32", "column": "*fp32", "bias": "*fp32",
        "M": "i32", "N": "i32", "K": "i32", "x_stride": "i32",
    }  # fmt: skip
    # Rows and widths are multiples of 16 in every model here, and Triton then knows it.
    aligned = (*(name for name, kind in signature.items() if kind.startswith("*")), "out", "N", "K", "x_stride")
    constexprs: dict[str, object] = {
        "KIND": kind, "ZERO": False, "WORDS": _VALUES[kind] == "*i32", "GROUP": _GROUPS.get(kind, 0),
        "BLOCK_SCALE": kind == "fp8", "COLUMN": kind in ("int8", "nvfp4"), "UPCAST": False, **changes,
    }  # fmt: skip
    return (
        Build(
            name=f"gemm.linear.{name}.decode",
            kernel="gemm.triton.kernel:linear_kernel",
            signature=signature | {"out": "*fp32"},
            constexprs={**constexprs, **_DECODE, "BIAS": False, "BLOCK_K": 64 if constexprs["ZERO"] else 128},
            num_warps=4,
            num_stages=3,
            aligned=aligned,
        ),
        Build(
            name=f"gemm.linear.{name}.prefill",
            kernel="gemm.triton.kernel:linear_kernel",
            signature=signature | {"out": "*bf16"},
            constexprs={**constexprs, **_PREFILL, "BIAS": True},
            num_warps=8,
            num_stages=3,
            aligned=aligned,
        ),
    )
