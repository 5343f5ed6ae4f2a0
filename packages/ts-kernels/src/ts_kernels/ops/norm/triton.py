"""Norms in Triton. Arguments have passed the public functions' checks. Legend: T tokens, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._tensors import rows


@triton.jit
def rms_norm_kernel(x, weight, out, x_stride, D, eps, BLOCK: tl.constexpr):
    """One program a row, the whole row in registers."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    values = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / D + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + column, (values * scale * gain).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of each row."""
    x, weight = rows(x), rows(weight)
    count, width = x.shape
    out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    if count:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(count,)](x, weight, out, x.stride(0), width, eps, BLOCK=block, num_warps=warps(block))
    return out


def warps(block: int) -> int:
    """Warps for a row of ``block`` numbers: 8 of them a thread, between 1 and 16 warps."""
    return min(max(block // 256, 1), 16)


@triton.jit
def add_rms_norm_kernel(x, residual, weight, out, x_stride, D, eps, BLOCK: tl.constexpr):
    """As above after ``residual += x``: what is stored is what is normed."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    held = residual + row * D + column
    added = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    summed = (added + tl.load(held, mask=inside, other=0.0).to(tl.float32)).to(residual.dtype.element_ty)
    tl.store(held, summed, mask=inside)
    values = summed.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / D + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + column, (values * scale * gain).to(out.dtype.element_ty), mask=inside)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual += x`` in place, then its norm."""
    x, weight = rows(x), rows(weight)
    count, width = x.shape
    out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    if count:
        block = triton.next_power_of_2(width)
        add_rms_norm_kernel[(count,)](
            x, residual, weight, out, x.stride(0), width, eps, BLOCK=block, num_warps=warps(block)
        )
    return out, residual


@triton.jit
def layer_norm_kernel(x, weight, bias, out, x_stride, D, eps, BLOCK: tl.constexpr):
    """One program a row; the variance about the mean, from registers."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    values = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values, 0) / D, 0.0)
    centred = tl.where(inside, centred - tl.sum(centred, 0) / D, 0.0)  # what the first mean was off by
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / D + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + column, (centred * scale * gain + shift).to(out.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of each row."""
    x, weight, bias = rows(x), rows(weight), rows(bias)
    count, width = x.shape
    out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    if count:
        block = triton.next_power_of_2(width)
        layer_norm_kernel[(count,)](x, weight, bias, out, x.stride(0), width, eps, BLOCK=block, num_warps=warps(block))
    return out
