"""The highest logit, log probabilities and ranks in Triton. Legend: B rows, V vocabulary, S chunks, N best.

A logit and its index make one int64 that orders by the logit, then by the lower index; so a maximum is exact whatever
the order it is taken in. Each chunk gives its best N, and a row's best N are among those.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import rows
from .keys import CHUNK, chunks, key_of, load_logits

WARPS = 8


@triton.jit
def _ordered(x, index, inside):
    packed = ((key_of(x) - 2147483648) << 32) | (4294967295 - index)
    return tl.where(inside, packed, -9223372036854775807)


@triton.jit
def best_kernel(logits, parts, stride, V, S, CHUNK: tl.constexpr, N: tl.constexpr):
    """The best N of a chunk."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = index < V
    packed = _ordered(load_logits(logits + row * stride, index, inside), index.to(tl.int64), inside)
    for i in range(N):
        best = tl.max(packed, 0)
        tl.store(parts + (row * S + chunk) * N + i, best)
        packed = tl.where(packed == best, -9223372036854775807, packed)


@triton.jit
def argmax_kernel(logits, parts, out, stride, S, S_PAD: tl.constexpr):
    """A row's best among its chunks'."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, S_PAD)
    best = tl.max(tl.load(parts + row * S + chunk, mask=chunk < S, other=-9223372036854775807), 0)
    index = 4294967295 - (best & 4294967295)
    there = (best >> 32) + 2147483648 > 8388607  # the key of minus infinity
    tl.store(out + row, tl.where(there, index, -1).to(tl.int32))


@triton.jit
def sums_kernel(logits, tokens, peaks, sums, better, stride, V, S, CHUNK: tl.constexpr):
    """A chunk's maximum, its sum of exponentials relative to that, and how many go before the row's token."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = index < V
    x = load_logits(logits + row * stride, index, inside)
    peak = tl.max(x, 0)
    total = tl.sum(tl.where(x == float("-inf"), 0.0, tl.where(x == peak, 1.0, tl.exp(x - peak))), 0)
    token = tl.load(tokens + row)
    there = tl.maximum(token, 0)
    own = load_logits(logits + row * stride, there, there < V)
    first = inside & ((x > own) | ((x == own) & (index < there)))
    at = row * S + chunk
    tl.store(peaks + at, peak)
    tl.store(sums + at, total)
    tl.store(better + at, tl.sum(first.to(tl.int32), 0))


@triton.jit
def _log_probability(x, peak, log_total):
    return tl.where(x == float("-inf"), x, tl.where(x == peak, 0.0, x - peak) - log_total)


@triton.jit
def logprobs_kernel(
    logits, tokens, peaks, sums, better, parts, chosen, ranks, top_ids, top_values, stride, V, S,
    S_PAD: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A row's results from its chunks'."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, S_PAD)
    have = chunk < S
    peak_of = tl.load(peaks + row * S + chunk, mask=have, other=float("-inf"))
    peak = tl.max(peak_of, 0)
    scaled = tl.load(sums + row * S + chunk, mask=have, other=0.0)
    total = tl.sum(scaled * tl.where(peak_of == peak, 1.0, tl.exp(peak_of - peak)), 0)
    log_total = tl.log(total)
    token = tl.load(tokens + row)
    own = load_logits(logits + row * stride, tl.maximum(token, 0), token < V)
    value = _log_probability(own, peak, log_total)
    rank = tl.sum(tl.load(better + row * S + chunk, mask=have, other=0), 0) + 1
    tl.store(chosen + row, tl.where(token < 0, float("-inf"), value))
    tl.store(ranks + row, tl.where(token < 0, 0, rank))
    if N > 0:
        part = tl.arange(0, PARTS)
        packed = tl.load(parts + row * S * N + part, mask=part < S * N, other=-9223372036854775807)
        for i in range(N):
            best = tl.max(packed, 0)
            packed = tl.where(packed == best, -9223372036854775807, packed)
            index = 4294967295 - (best & 4294967295)
            x = load_logits(logits + row * stride, index, index < V)
            tl.store(top_ids + row * N + i, index.to(tl.int32))
            tl.store(top_values + row * N + i, _log_probability(x, peak, log_total))


def best_of(logits: Tensor, n: int) -> Tensor:
    """The best ``n`` of each chunk, packed: int64 [B, S, n]."""
    count, vocab = logits.shape
    parts = torch.empty((count, chunks(vocab), n), dtype=torch.int64, device=logits.device)
    if parts.numel():
        best_kernel[(count, chunks(vocab))](
            logits, parts, logits.stride(0), vocab, chunks(vocab), CHUNK=CHUNK, N=n, num_warps=WARPS
        )
    return parts


def argmax(logits: Tensor) -> Tensor:
    """The highest logit's index."""
    logits = rows(logits)
    out = torch.empty((logits.shape[0],), dtype=torch.int32, device=logits.device)
    parts = best_of(logits, 1)
    if out.numel():
        size = parts.shape[1]
        pad = triton.next_power_of_2(size)
        argmax_kernel[(len(out),)](logits, parts, out, logits.stride(0), size, S_PAD=pad, num_warps=1)
    return out


def logprobs(logits: Tensor, tokens: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log probabilities and ranks of tokens, and the best ``n``."""
    logits, tokens = rows(logits), tokens.contiguous()
    (count, vocab), device = logits.shape, logits.device
    size = chunks(vocab)
    chosen, ranks = torch.empty((count,), device=device), torch.empty((count,), dtype=torch.int32, device=device)
    top_ids = torch.empty((count, n), dtype=torch.int32, device=device)
    top_values = torch.empty((count, n), dtype=torch.float32, device=device)
    if count:
        parts = best_of(logits, n)
        peaks, sums = (torch.empty((count, size), dtype=torch.float32, device=device) for _ in range(2))
        better = torch.empty((count, size), dtype=torch.int32, device=device)
        stride = logits.stride(0)
        sums_kernel[(count, size)](
            logits, tokens, peaks, sums, better, stride, vocab, size, CHUNK=CHUNK, num_warps=WARPS
        )
        logprobs_kernel[(count,)](
            logits, tokens, peaks, sums, better, parts, chosen, ranks, top_ids, top_values, stride, vocab, size,
            S_PAD=triton.next_power_of_2(size), N=n, PARTS=triton.next_power_of_2(max(size * n, 1)), num_warps=4,
        )  # fmt: skip
    return chosen, ranks, top_ids, top_values
