"""The gated norm and copies of states in Triton. Legend: T rows, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import rows


@triton.jit
def gated_norm_kernel(x, z, weight, out, x_stride, z_stride, T, D, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A few rows a program: a head is too narrow for one."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row[:, None] < T) & (column[None, :] < D)
    value = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(z + row[:, None] * z_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
    result = value * scale[:, None] * gain[None, :] * (gate / (1.0 + tl.exp(-gate)))
    tl.store(out + row[:, None] * D + column[None, :], result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def copy_kernel(source, target, from_slots, to_slots, size, BLOCK: tl.constexpr):
    """A block of one slot."""
    i = tl.program_id(0)
    first, second = tl.load(from_slots + i), tl.load(to_slots + i)
    if (first >= 0) & (second >= 0):
        index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(source + first * size + index, mask=index < size)
        tl.store(target + second * size + index, value, mask=index < size)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm times SiLU of the gate."""
    x, z, weight = rows(x), rows(z), weight.contiguous()
    count, width = x.shape
    out = torch.empty((count, width), dtype=x.dtype, device=x.device)
    if count:
        block = triton.next_power_of_2(width)
        lines = max(1024 // block, 1)
        gated_norm_kernel[(triton.cdiv(count, lines),)](
            x, z, weight, out, x.stride(0), z.stride(0), count, width, eps, ROWS=lines, BLOCK=block, num_warps=4
        )
    return out


def copy_states(source: Tensor, target: Tensor, from_slots: Tensor, to_slots: Tensor) -> None:
    """Copy slots."""
    first, second = from_slots.contiguous(), to_slots.contiguous()
    if len(first) and source.numel():
        size = source[0].numel()
        copy_kernel[(len(first), triton.cdiv(size, 4096))](source, target, first, second, size, BLOCK=4096, num_warps=8)
