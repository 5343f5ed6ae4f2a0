"""Builds of ts_kernels.ops.rope.triton: MLA's rotary part under TP4, and MoonViT's plane."""

from . import Build


def aot_builds() -> list[Build]:
    """16 heads with 32 interleaved pairs; 16 heads with 36 pairs on two axes; a GQA head's 64 pairs by halves."""
    return [_turn("interleaved", 32, 32, False), _turn("plane", 36, 64, True), _turn("halves", 64, 64, False, True)]


def _turn(name: str, pairs: int, block: int, mapped: bool, halves: bool = False) -> Build:
    pointers = {"x": "*bf16", "cos_sin": "*fp32", "positions": "*i64"}
    maps = {"axis": "*i32", "column": "*i32"} if mapped else {}
    sizes = dict.fromkeys(("token_stride", "head_stride", "axis_stride", "table_width", "H", "first"), "i32")
    absent = {} if mapped else {"axis": None, "column": None}
    return Build(
        name=f"rope.turn.{name}",
        kernel="rope.triton:turn_kernel",
        signature={**pointers, **maps, **sizes},
        constexprs={**absent, "PAIRS": pairs, "HALVES": halves, "HEADS": 16, "BLOCK": block},
        num_warps=4,
        num_stages=1,
        aligned=(*pointers, *maps, "token_stride", "head_stride"),
    )
