"""Rotary positions in Triton. Arguments have passed the public functions' checks. Legend: T tokens, H heads."""

import triton
import triton.language as tl
from torch import Tensor

from .layout import Layout


@triton.jit
def turn_kernel(
    x, cos_sin, positions, axis, column, token_stride, head_stride, axis_stride, table_width, H, first,
    PAIRS: tl.constexpr, HALVES: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``HEADS`` heads of one token. A pair's partner lies in the same lines, so each line is fetched once."""
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, BLOCK)
    real = pair < PAIRS
    if axis is None:
        place = tl.load(positions + token)
        angle = cos_sin + place * table_width + pair
    else:
        place = tl.load(positions + tl.load(axis + pair, mask=real, other=0) * axis_stride + token, mask=real, other=0)
        angle = cos_sin + place * table_width + tl.load(column + pair, mask=real, other=0)
    cos = tl.load(angle, mask=real, other=0.0)[None, :]
    sin = tl.load(angle + table_width // 2, mask=real, other=0.0)[None, :]
    left = first + (pair if HALVES else 2 * pair)
    source = x + token * token_stride + head.to(tl.int64)[:, None] * head_stride + left[None, :]
    partner = source + (PAIRS if HALVES else 1)
    inside = (head < H)[:, None] & real[None, :]
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(partner, mask=inside, other=0.0).to(tl.float32)
    tl.store(source, (a * cos - b * sin).to(x.dtype.element_ty), mask=inside)
    tl.store(partner, (b * cos + a * sin).to(x.dtype.element_ty), mask=inside)


def turn(x: Tensor, cos_sin: Tensor, positions: Tensor, layout: Layout) -> Tensor:
    """Rotate the layout's columns of each head in place; positions [axes, T]."""
    if x.numel() == 0:
        return x
    if x.stride(2) != 1:
        return x.copy_(turn(x.contiguous(), cos_sin, positions, layout))
    tokens, heads, _ = x.shape
    axis, column = layout.maps(x.device) if layout.axis else (None, None)
    cos_sin, positions = cos_sin.contiguous(), positions.contiguous()
    block = triton.next_power_of_2(layout.pairs)
    together = min(triton.next_power_of_2(heads), max(2048 // block, 1))
    turn_kernel[(tokens, triton.cdiv(heads, together))](
        x, cos_sin, positions, axis, column, x.stride(0), x.stride(1), positions.stride(0), cos_sin.shape[1], heads,
        layout.first, PAIRS=layout.pairs, HALVES=layout.halves, HEADS=together, BLOCK=block,
        num_warps=min(max(together * block // 256, 1), 8),
    )  # fmt: skip
    return x


def apply_interleaved(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate the last columns of each head in place."""
    pairs = cos_sin.shape[1] // 2
    return turn(x, cos_sin, positions[None], Layout(x.shape[2] - 2 * pairs, pairs, False))
