"""Builds of ts_kernels.ops.norm.triton: a model's hidden width, and one that is no power of two."""

from . import Build


def aot_builds() -> list[Build]:
    """Kimi K2.5's hidden width in bf16, the miniature's in fp32."""
    return [_rms_norm("bf16", 8192, 16), _rms_norm("fp32", 256, 1), _add_rms_norm(), _layer_norm()]


def _add_rms_norm() -> Build:
    """Kimi K2.5's hidden width."""
    pointers = dict.fromkeys(("x", "residual", "weight", "out"), "*bf16")
    return _row_build("add_rms_norm", pointers, 8192, 16)


def _layer_norm() -> Build:
    """MoonViT's width, 1152."""
    return _row_build("layer_norm", dict.fromkeys(("x", "weight", "bias", "out"), "*bf16"), 2048, 8)


def _row_build(name: str, pointers: dict[str, str], block: int, warps: int) -> Build:
    return Build(
        name=f"norm.{name}.bf16.{block}",
        kernel=f"norm.triton:{name}_kernel",
        signature={**pointers, "x_stride": "i32", "D": "i32", "eps": "fp32"},
        constexprs={"BLOCK": block},
        num_warps=warps,
        num_stages=1,
        aligned=(*pointers, "x_stride", "D"),
    )


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
