"""Builds of ts_kernels.ops.quantize.triton: rows of 7168, whole and in groups of 128."""

from . import Build


def aot_builds() -> list[Build]:
    """One scale a row, one a group."""
    return [_build("per_token", 7168, 1, 8192), _build("per_group", 128, 8, 128)]


def _build(name: str, span: int, block: int, wide: int) -> Build:
    return Build(
        name=f"quantize.fp8_{name}",
        kernel="quantize.triton:fp8_kernel",
        signature={"x": "*bf16", "values": "*u8", "scale": "*fp32", "x_stride": "i32", "D": "i32", "GROUPS": "i32"},
        constexprs={"LARGEST": 448.0, "SMALLEST": 1e-12, "SPAN": span, "BLOCK_G": block, "WIDE": wide},
        num_warps=min(max(block * wide // 256, 1), 16),
        num_stages=1,
    )
