"""Activations to FP8 in Triton. Arguments have passed the public checks. Legend: T tokens, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...contract import E4M3_MAX
from .._tensors import rows
from .fp8 import BLOCK, E4M3
from .reference import LEAST


@triton.jit
def to_e4m3(x):
    """Bits of the nearest e4m3 to fp32 numbers of at most 448, ties to even; not every target converts this type."""
    bits = x.to(tl.int32, bitcast=True)
    sign, magnitude = (bits >> 24) & 0x80, bits & 0x7FFFFFFF
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - 960
    # Below 2^-6 a step is 2^-9; adding 2^23 rounds to whole steps and leaves them in the lowest bits.
    subnormal = (tl.abs(x) * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < 0x3C800000, subnormal, normal)
    return (tl.where(magnitude > 0x7F800000, 0x7F, code) | sign).to(tl.uint8)


@triton.jit
def fp8_kernel(
    x, values, scale, x_stride, D, GROUPS, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, SPAN: tl.constexpr,
    BLOCK_G: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BLOCK_G groups of SPAN columns of one row (WIDE: SPAN rounded up to a power of two)."""
    row = tl.program_id(0).to(tl.int64)
    group, lane = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G), tl.arange(0, WIDE)
    column = group[:, None] * SPAN + lane[None, :]
    inside = (column < D) & (lane[None, :] < SPAN)
    numbers = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    factor = tl.maximum(tl.div_rn(tl.max(tl.abs(numbers), 1), tl.full((BLOCK_G,), LARGEST, tl.float32)), SMALLEST)
    # A GPU's maximum passes over NaN, of which the group's scale must tell.
    factor = tl.where(tl.max(tl.abs(numbers).to(tl.int32, bitcast=True), 1) > 0x7F800000, float("nan"), factor)
    quotient = tl.div_rn(numbers, tl.broadcast_to(factor[:, None], (BLOCK_G, WIDE)))
    limited = tl.where(quotient > LARGEST, LARGEST, tl.where(quotient < -LARGEST, -LARGEST, quotient))
    tl.store(values + row * D + column, to_e4m3(limited), mask=inside)
    tl.store(scale + row * GROUPS + group, factor, mask=group < GROUPS)


def fp8_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, 1]."""
    return _launch(x, x.shape[1], 1)


def fp8_per_group(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, ceil(D / 128)]."""
    return _launch(x, BLOCK, 8)


def _launch(x: Tensor, span: int, block: int) -> tuple[Tensor, Tensor]:
    x = rows(x)
    tokens, width = x.shape
    groups, wide = triton.cdiv(width, span), triton.next_power_of_2(span)
    values = torch.empty((tokens, width), dtype=torch.uint8, device=x.device)
    scale = torch.empty((tokens, groups), dtype=torch.float32, device=x.device)
    if tokens:
        fp8_kernel[(tokens, triton.cdiv(groups, block))](
            x, values, scale, x.stride(0), width, groups, LARGEST=E4M3_MAX, SMALLEST=LEAST, SPAN=span,
            BLOCK_G=block, WIDE=wide, num_warps=min(max(block * wide // 256, 1), 16),
        )  # fmt: skip
    return values.view(E4M3), scale
