"""Rows of a table in Triton. Legend: T tokens, V rows of the table, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gather_kernel(table, ids, out, D, BLOCK: tl.constexpr):
    """One program a token and block of columns."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    row = tl.load(ids + token).to(tl.int64)
    values = tl.load(table + row * D + column, mask=inside)
    tl.store(out + token * D + column, values.to(out.dtype.element_ty), mask=inside)


def gather_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """``table[ids]`` in ``dtype``."""
    tokens, width = ids.shape[0], table.shape[1]
    out = torch.empty((tokens, width), dtype=dtype, device=table.device)
    if tokens and width:
        block = min(triton.next_power_of_2(width), 2048)
        gather_kernel[(tokens, triton.cdiv(width, block))](table, ids.contiguous(), out, width, BLOCK=block)
    return out
