"""Depthwise causal convolution with SiLU in Triton. Legend: T tokens, R rows, C channels, W width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import rows as dense_rows
from .rows import row_of

TOKENS, CHANNELS = 16, 64


@triton.jit
def conv_kernel(
    x, weight, states, slots, cu_q, fresh, out, x_stride, T, R, C,
    FRESH: tl.constexpr, W: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, R_PAD: tl.constexpr,
):  # fmt: skip
    """A tile of tokens and channels. States are read only: rows' first tokens are in one tile, others wait for none."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, valid = token < T, channel < C
    row = row_of(cu_q, token, R, R_PAD)
    inside = inside & (row < R)
    slot = tl.load(slots + row, mask=inside, other=-1)
    place = token - tl.load(cu_q + row, mask=inside, other=0)
    known = inside & (slot >= 0)
    stateful = known
    if FRESH:
        stateful = known & (tl.load(fresh + row, mask=inside, other=1) == 0)
    total = tl.zeros((TOKENS, CHANNELS), tl.float32)
    for back in tl.static_range(W):
        gain = tl.load(weight + channel * W + (W - 1 - back), mask=valid, other=0.0).to(tl.float32)
        near = known & (place >= back)
        line = (token - back).to(tl.int64) * x_stride
        value = tl.load(x + line[:, None] + channel[None, :], mask=near[:, None] & valid[None, :], other=0.0)
        far = stateful & (place < back)
        line = (slot * (W - 1) + (W - 1) + place - back) * C
        old = tl.load(states + line[:, None] + channel[None, :], mask=far[:, None] & valid[None, :], other=0.0)
        total += gain[None, :] * (value.to(tl.float32) + old)
    result = total / (1.0 + tl.exp(-total))
    at = token.to(tl.int64)[:, None] * C + channel[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside[:, None] & valid[None, :])


@triton.jit
def keep_kernel(
    x, states, slots, cu_q, fresh, x_stride, C, FRESH: tl.constexpr, W: tl.constexpr, LINES: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """A row's last W-1 inputs, of its tokens and, where these are too few, of the state that they replace."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if slot >= 0:
        first, end = tl.load(cu_q + row), tl.load(cu_q + row + 1)
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        line = tl.arange(0, LINES)
        valid = (line[:, None] < W - 1) & (channel[None, :] < C)
        token = end - (W - 1) + line
        near = token >= first
        at = token.to(tl.int64) * x_stride
        value = tl.load(x + at[:, None] + channel[None, :], mask=valid & near[:, None], other=0.0).to(tl.float32)
        known = first
        if FRESH:
            known = tl.where(tl.load(fresh + row) == 0, first, -2147483647)
        far = (token < known) & (line < W - 1)
        pool = states + slot * (W - 1) * C
        moved = (line + end - first) * C
        old = tl.load(pool + moved[:, None] + channel[None, :], mask=valid & far[:, None], other=0.0)
        tl.debug_barrier()  # every thread has read the old lines before any is replaced
        tl.store(pool + line[:, None] * C + channel[None, :], value + old, mask=valid)


@triton.jit
def conv_step_kernel(x, weight, states, slots, out, x_stride, C, W: tl.constexpr, CHANNELS: tl.constexpr):
    """One token of a row: each thread's channels move up a line."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < C
    used = channel < tl.where(slot >= 0, C, 0)
    pool = states + slot * (W - 1) * C + channel
    value = tl.load(x + row * x_stride + channel, mask=used, other=0.0).to(tl.float32)
    total = value * tl.load(weight + channel * W + (W - 1), mask=valid, other=0.0).to(tl.float32)
    for line in tl.static_range(W - 1):
        old = tl.load(pool + line * C, mask=used, other=0.0)
        total += old * tl.load(weight + channel * W + line, mask=valid, other=0.0).to(tl.float32)
        if line > 0:
            tl.store(pool + (line - 1) * C, old, mask=used)
    tl.store(pool + (W - 2) * C, value, mask=used)
    result = total / (1.0 + tl.exp(-total))
    tl.store(out + row * C + channel, result.to(out.dtype.element_ty), mask=valid)


def causal_conv(
    x: Tensor, weight: Tensor, states: Tensor, slots: Tensor, cu_q: Tensor, fresh: Tensor | None = None
) -> Tensor:
    """Several rows' tokens."""
    x, weight, slots, cu_q = dense_rows(x), weight.contiguous(), slots.contiguous(), cu_q.contiguous()
    (tokens, channels), (_, width), count = x.shape, weight.shape, len(slots)
    new = slots if fresh is None else fresh.contiguous().view(torch.uint8)
    out = torch.empty((tokens, channels), dtype=x.dtype, device=x.device)
    if count == 0:
        return out
    blocks = triton.cdiv(channels, CHANNELS)
    if tokens:
        conv_kernel[(triton.cdiv(tokens, TOKENS), blocks)](
            x, weight, states, slots, cu_q, new, out, x.stride(0), tokens, count, channels, FRESH=fresh is not None,
            W=width, TOKENS=TOKENS, CHANNELS=CHANNELS, R_PAD=triton.next_power_of_2(count), num_warps=4,
        )  # fmt: skip
    keep_kernel[(count, triton.cdiv(channels, 256))](
        x, states, slots, cu_q, new, x.stride(0), channels, FRESH=fresh is not None, W=width,
        LINES=triton.next_power_of_2(width - 1), CHANNELS=256, num_warps=4,
    )  # fmt: skip
    return out


def causal_conv_step(x: Tensor, weight: Tensor, states: Tensor, slots: Tensor) -> Tensor:
    """One token a row."""
    x, weight, slots = dense_rows(x), weight.contiguous(), slots.contiguous()
    (count, channels), width = x.shape, weight.shape[1]
    out = torch.empty((count, channels), dtype=x.dtype, device=x.device)
    if count:
        conv_step_kernel[(count, triton.cdiv(channels, 256))](
            x, weight, states, slots, out, x.stride(0), channels, W=width, CHANNELS=256, num_warps=4
        )
    return out
