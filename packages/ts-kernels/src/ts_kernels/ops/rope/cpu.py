"""Native rotary positions (csrc/ops/rope.cpp). Arguments have passed the public function's checks."""

from torch import Tensor

from ... import _native
from .._tensors import CODE
from .layout import Layout


def apply_interleaved(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate the last columns of each head in place."""
    if x.numel() == 0:
        return x
    if x.stride(2) != 1:
        dense = x.contiguous()
        return x.copy_(apply_interleaved(dense, cos_sin, positions))
    tokens, heads, width = x.shape
    limit, rotary = cos_sin.shape
    token_stride, head_stride, _ = x.stride()
    cos_sin, positions = cos_sin.contiguous(), positions.contiguous()
    _native.apply_interleaved(
        x.data_ptr(),
        token_stride,
        head_stride,
        tokens,
        heads,
        width,
        rotary,
        cos_sin.data_ptr(),
        limit,
        positions.data_ptr(),
        CODE[x.dtype],
    )
    return x


def turn(x: Tensor, cos_sin: Tensor, positions: Tensor, layout: Layout) -> Tensor:
    """Rotate the layout's columns of each head in place; positions [axes, T]."""
    if x.numel() == 0:
        return x
    if x.stride(2) != 1:
        return x.copy_(turn(x.contiguous(), cos_sin, positions, layout))
    tokens, heads, _ = x.shape
    token_stride, head_stride, _ = x.stride()
    cos_sin, positions = cos_sin.contiguous(), positions.contiguous()
    axis, column = layout.maps(x.device)
    _native.rotate(
        x.data_ptr(),
        token_stride,
        head_stride,
        tokens,
        heads,
        layout.first,
        2 * layout.pairs,
        layout.halves,
        cos_sin.data_ptr(),
        cos_sin.shape[1],
        cos_sin.shape[0],
        positions.data_ptr(),
        positions.shape[0],
        axis.data_ptr() if layout.axis else 0,
        column.data_ptr() if layout.axis else 0,
        CODE[x.dtype],
    )
    return x


# Shortcuts that take the public arguments; see Operation.direct.
direct_apply_halves = _native.direct_apply_halves
direct_apply_interleaved = _native.direct_apply_interleaved
