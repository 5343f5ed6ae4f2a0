"""Finding rows on the device. Legend: R rows."""

import triton
import triton.language as tl


@triton.jit
def row_of(cu_q, token, R, R_PAD: tl.constexpr):
    """The row of each of a vector of tokens; R for those beyond the last."""
    row = tl.arange(0, R_PAD)
    ends = tl.load(cu_q + 1 + row, mask=row < R, other=2147483647)
    return tl.sum((ends[None, :] <= token[:, None]).to(tl.int32), 1)


@triton.jit
def chunk_counts(cu_q, R, R_PAD: tl.constexpr, C: tl.constexpr):
    """How many chunks of C tokens each row has, [R_PAD]."""
    row = tl.arange(0, R_PAD)
    first = tl.load(cu_q + row, mask=row < R, other=0)
    end = tl.load(cu_q + 1 + row, mask=row < R, other=0)
    return (end - first + C - 1) // C
