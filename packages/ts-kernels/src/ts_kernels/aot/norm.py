"""Builds of ts_kernels.ops.norm.triton: a model's hidden width, and one that is no power of two."""

from . import Build


def aot_builds() -> list[Build]:
    """Kimi K2.5's hidden width in bf16, the miniature's in fp32."""
    return [_rms_norm("bf16", 8192, 16), _rms_norm("fp32", 256, 1)]


def _rms_norm(dtype: str, block: int, warps: int) -> Build:
    return Build(
        name=f"norm.rms_norm.{dtype}.{block}",
        kernel="norm.triton:rms_norm_kernel",
        signature={
            "x": f"*{dtype}",
            "weight": f"*{dtype}",
            "out": f"*{dtype}",
            "x_stride": "i32",
            "D": "i32",
            "eps": "fp32",
        },
        constexprs={"BLOCK": block},
        num_warps=warps,
        num_stages=1,
        aligned=("x", "weight", "out", "x_stride", "D"),
    )
