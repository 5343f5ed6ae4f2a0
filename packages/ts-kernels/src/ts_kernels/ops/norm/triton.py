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
