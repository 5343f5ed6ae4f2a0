"""Merge of partial attention in Triton. Legend: P parts, T tokens, H heads, V value width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._walk import LOG2E, LOWEST


@triton.jit
def merge_kernel(
    outs,
    lses,
    sinks,
    out,
    lse,
    parts,
    rows,
    H: tl.constexpr,
    V: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_V: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One program a token and head; parts whose lse is -inf are not read."""
    row = tl.program_id(0).to(tl.int64)
    v, some_P = tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_P)
    top = tl.full([], LOWEST, tl.float32)
    for first in range(0, parts, BLOCK_P):
        part_P = first + some_P
        lse_P = tl.load(lses + part_P.to(tl.int64) * rows + row, mask=part_P < parts, other=float("-inf"))
        top = tl.maximum(top, tl.max(lse_P, 0))
    sink = top
    if SINKS:
        sink = tl.load(sinks + row % H)
        above = tl.maximum(top, sink)
    else:
        above = top
    acc, total = tl.zeros([BLOCK_V], tl.float32), tl.full([], 0.0, tl.float32)
    for first in range(0, parts, BLOCK_P):
        part_P = first + some_P
        lse_P = tl.load(lses + part_P.to(tl.int64) * rows + row, mask=part_P < parts, other=float("-inf"))
        share_P = tl.exp2((lse_P - above) * LOG2E)
        total += tl.sum(share_P, 0)
        mask = (lse_P > float("-inf"))[:, None] & (v < V)[None, :]
        place_P = (part_P.to(tl.int64) * rows + row) * V
        values = tl.load(outs + place_P[:, None] + v[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(values * share_P[:, None], 0)
    nothing = (total == 0.0) & (top == LOWEST)
    if SINKS:
        total += tl.where(sink == above, 1.0, tl.exp2((sink - above) * LOG2E))
    safe = tl.where(nothing, 1.0, total)
    tl.store(out + row * V + v, (acc / safe).to(out.dtype.element_ty), mask=v < V)
    whole = tl.where(above == float("inf"), above, above + tl.log2(safe) / LOG2E)
    tl.store(lse + row, tl.where(nothing, float("-inf"), whole))


def merge(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of the parts' keys."""
    return merge_parts(outs.contiguous(), lses.contiguous(), None, outs.dtype)


def merge_parts(outs: Tensor, lses: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """outs [P, T, H*V] and lses [P, T, H], both dense; sinks count once."""
    parts, tokens, heads = lses.shape
    out = torch.empty(outs.shape[1:], dtype=dtype, device=outs.device)
    lse = torch.empty((tokens, heads), dtype=torch.float32, device=outs.device)
    v = outs.shape[2] // heads
    if tokens:
        merge_kernel[(tokens * heads,)](
            outs,
            lses,
            lse if sinks is None else sinks,
            out,
            lse,
            parts,
            tokens * heads,
            H=heads,
            V=v,
            BLOCK_P=min(triton.next_power_of_2(parts), 16),
            BLOCK_V=triton.next_power_of_2(v),
            SINKS=sinks is not None,
            num_warps=4,
        )
    return out, lse
