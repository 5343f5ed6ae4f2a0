"""Penalties, biases and masks in Triton. Legend: B rows, V vocabulary, N entries."""

import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import rows as dense_rows

BLOCK = 4096
TOKENS = 64


@triton.jit
def mark_kernel(counts, slots, tokens, token_stride, V, N, BLOCK: tl.constexpr):
    """Set the sign bit. Equal tokens of a row write equal values, in whatever order."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + row * token_stride + i, mask=i < N, other=-1)
    used = token >= tl.where(slot >= 0, 0, 2147483647)
    at = counts + slot * V + token
    old = tl.load(at, mask=used, other=0).to(tl.int32)
    tl.store(at, (old | -32768).to(tl.int16), mask=used)


@triton.jit
def count_kernel(counts, slots, tokens, token_stride, V, first, N, BLOCK: tl.constexpr):
    """Add up to BLOCK tokens of a row; the first of equal ones adds for all, so that no two lanes write one place."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    lane = tl.arange(0, BLOCK)
    here = tokens + row * token_stride + first
    token = tl.load(here + lane, mask=first + lane < N, other=-1)
    equal = (token[:, None] == token[None, :]).to(tl.int32)
    earlier = tl.sum(equal * (lane[None, :] < lane[:, None]).to(tl.int32), 1)
    used = (token >= tl.where(slot >= 0, 0, 2147483647)) & (earlier == 0)
    at = counts + slot * V + token
    old = tl.load(at, mask=used, other=0).to(tl.int32)
    made = tl.minimum((old & 32767) + tl.sum(equal, 1), 32767)
    tl.store(at, ((old & -32768) | made).to(tl.int16), mask=used)


@triton.jit
def penalties_kernel(logits, counts, slots, repetition, presence, frequency, stride, V, BLOCK: tl.constexpr):
    """One block of a row; a row without a slot costs nothing."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    if slot >= 0:
        index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = index < V
        seen = tl.load(counts + slot * V + index, mask=inside, other=0).to(tl.int32)
        x = tl.load(logits + row * stride + index, mask=inside & (seen != 0), other=0.0)
        made = (seen & 32767).to(tl.float32)
        factor = tl.load(repetition + row)
        x = tl.where(x > 0, x / factor, x * factor) - tl.load(frequency + row) * made
        x = x - tl.load(presence + row) * (made > 0).to(tl.float32)
        tl.store(logits + row * stride + index, x, mask=inside & (seen != 0))


@triton.jit
def bias_kernel(logits, rows, tokens, values, stride, N, BLOCK: tl.constexpr):
    """Add a block of entries."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + i, mask=i < N, other=-1).to(tl.int64)
    used = row >= 0
    at = logits + row * stride + tl.load(tokens + i, mask=used, other=0)
    tl.store(at, tl.load(at, mask=used, other=0.0) + tl.load(values + i, mask=used, other=0.0), mask=used)


@triton.jit
def mask_kernel(logits, mask, lines, stride, V, WORDS, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """Close a block's tokens; logits are written where they close, and never read."""
    row = tl.program_id(0).to(tl.int64)
    line = tl.load(lines + row) if LINES else row
    if line >= 0:
        index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        word = tl.load(mask + line * WORDS + index // 32, mask=index < V, other=-1)
        closed = ((word >> (index % 32)) & 1) == 0
        minus = tl.full((BLOCK,), float("-inf"), tl.float32)
        tl.store(logits + row * stride + index, minus, mask=(index < V) & closed)


def count_tokens(counts: Tensor, slots: Tensor, tokens: Tensor, prompt: bool) -> None:
    """Record tokens of prompts or outputs."""
    slots, tokens = slots.contiguous(), dense_rows(tokens) if tokens.numel() else tokens
    (count, size), vocab = tokens.shape, counts.shape[1]
    if tokens.numel() == 0:
        return
    if prompt:
        grid = (count, triton.cdiv(size, 256))
        mark_kernel[grid](counts, slots, tokens, tokens.stride(0), vocab, size, BLOCK=256, num_warps=2)
        return
    for first in range(0, size, TOKENS):  # one launch after another: equal tokens of two blocks add up
        count_kernel[(count,)](counts, slots, tokens, tokens.stride(0), vocab, first, size, BLOCK=TOKENS, num_warps=4)


def apply_penalties(
    logits: Tensor, counts: Tensor, slots: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> None:
    """Penalties, in place."""
    parts = [t.contiguous() for t in (slots, repetition, presence, frequency)]
    count, vocab = logits.shape
    if count:
        grid = (count, triton.cdiv(vocab, BLOCK))
        penalties_kernel[grid](logits, counts, *parts, logits.stride(0), vocab, BLOCK=BLOCK, num_warps=8)


def apply_bias(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """Sparse biases, in place."""
    parts = [t.contiguous() for t in (rows, tokens, values)]
    if len(rows):
        grid = (triton.cdiv(len(rows), 256),)
        bias_kernel[grid](logits, *parts, logits.stride(0), len(rows), BLOCK=256, num_warps=2)


def apply_mask(logits: Tensor, mask: Tensor, rows: Tensor | None = None) -> None:
    """Close tokens, in place."""
    count, vocab = logits.shape
    lines = mask if rows is None else rows.contiguous()
    if count:
        grid = (count, triton.cdiv(vocab, BLOCK))
        mask_kernel[grid](
            logits,
            mask,
            lines,
            logits.stride(0),
            vocab,
            mask.shape[1],
            LINES=rows is not None,
            BLOCK=BLOCK,
            num_warps=8,
        )
