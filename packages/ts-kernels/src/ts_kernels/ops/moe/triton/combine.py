"""Weighted sum of each token's pairs. Legend: T tokens, k experts a token, E experts, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def combine_kernel(values, weights, ids, base, out, base_stride, E, D, k, HAS_BASE: tl.constexpr, BLOCK: tl.constexpr):
    """One program for BLOCK columns of a token; the order of the sum is the order of the choices."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    total = tl.zeros((BLOCK,), tl.float32)
    if HAS_BASE:
        total = tl.load(base + token * base_stride + column, mask=inside, other=0.0).to(tl.float32)
    for j in range(k):
        pair = token * k + j
        expert = tl.load(ids + pair)
        width = tl.where((expert >= 0) & (expert < E), D, 0)
        value = tl.load(values + pair * D + column, mask=column < width, other=0.0).to(tl.float32)
        total += value * tl.load(weights + pair)
    tl.store(out + token * D + column, total.to(out.dtype.element_ty), mask=inside)


def combine(
    values: Tensor,
    weights: Tensor,
    ids: Tensor,
    experts: int,
    base: Tensor | None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A sum in the order of the choices, in fp32, rounded once to the values' type unless ``dtype`` is given."""
    tokens, k, width = values.shape
    out = torch.empty((tokens, width), dtype=dtype or values.dtype, device=values.device)
    if out.numel():
        start = out if base is None else base if base.stride(-1) == 1 else base.contiguous()
        block = min(BLOCK, triton.next_power_of_2(width))
        combine_kernel[(tokens, triton.cdiv(width, block))](
            values, weights.contiguous(), ids.contiguous(), start, out, start.stride(0), experts, width, k,
            HAS_BASE=base is not None, BLOCK=block,
        )  # fmt: skip
    return out
