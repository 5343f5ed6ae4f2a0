"""The gated delta rule in Triton: a step of one token a row, and prefill by chunks (arXiv 2406.06484, section 3).

Within a chunk of C tokens with decays cumulated to exp(G_i), the changes u that the tokens write solve

    (I + A) u = beta (v - exp(G) K S),    A_ij = beta_i (k_i . k_j) exp(G_i - G_j) for j < i

where S is the state before the chunk. ``solve_kernel`` inverts I + A for all chunks at once, by substitution row after
row (a product of powers of A would be faster, but cancels catastrophically for keys that repeat); ``scan_kernel`` then
goes through a row's chunks by matrix products alone.

Legend: T tokens, R rows, H key heads, G value heads, K key width, V value width, C tokens of a chunk, N chunks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....platform import DeviceInfo, device_info
from .rows import chunk_counts

VALUES = 32


@triton.jit
def gates(a, b, a_log, dt_bias, head, inside):
    """Logarithm of the decay, and beta; neither decay nor update outside."""
    step = tl.load(a + head, mask=inside, other=0.0).to(tl.float32) + tl.load(dt_bias + head)
    # softplus, without the overflow of exp for a large step
    soft = tl.maximum(step, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(step)))
    decay = tl.where(inside, -tl.exp(tl.load(a_log + head)) * soft, 0.0)
    beta = 1.0 / (1.0 + tl.exp(-tl.load(b + head, mask=inside, other=0.0).to(tl.float32)))
    return decay, tl.where(inside, beta, 0.0)


@triton.jit
def unit_rows(x, stride, head, token, inside, K, K_PAD: tl.constexpr):
    """Rows of length one, fp32 [C, K_PAD]."""
    column = tl.arange(0, K_PAD)
    at = token.to(tl.int64)[:, None] * stride + head * K + column[None, :]
    value = tl.load(x + at, mask=inside[:, None] & (column[None, :] < K), other=0.0).to(tl.float32)
    return value * tl.rsqrt(tl.sum(value * value, 1) + 1e-6)[:, None]


@triton.jit
def step_kernel(
    q, k, v, a, b, a_log, dt_bias, states, slots, out, q_stride, k_stride, v_stride, a_stride, b_stride, scale,
    SHARED, G, K, V, K_PAD: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """One token, one head, a block of value columns: the state passes through registers once."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    index, column = tl.arange(0, K_PAD), tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    valid, place = column < V, out + (row * G + head) * V + column
    if slot >= 0:
        at = (head // SHARED) * K + index
        key = tl.load(k + row * k_stride + at, mask=index < K, other=0.0).to(tl.float32)
        query = tl.load(q + row * q_stride + at, mask=index < K, other=0.0).to(tl.float32)
        key = key * tl.rsqrt(tl.sum(key * key, 0) + 1e-6)
        query = query * (tl.rsqrt(tl.sum(query * query, 0) + 1e-6) * scale)
        decay, beta = gates(a + row * a_stride, b + row * b_stride, a_log, dt_bias, head, slot >= 0)
        pool = states + (slot * G + head) * K * V + index[:, None] * V + column[None, :]
        inside = (index[:, None] < K) & valid[None, :]
        state = tl.load(pool, mask=inside, other=0.0) * tl.exp(decay)
        value = tl.load(v + row * v_stride + head * V + column, mask=valid, other=0.0).to(tl.float32)
        change = (value - tl.sum(state * key[:, None], 0)) * beta
        state += key[:, None] * change[None, :]
        tl.store(pool, state, mask=inside)
        tl.store(place, tl.sum(state * query[:, None], 0).to(out.dtype.element_ty), mask=valid)
    else:
        tl.store(place, tl.zeros((VALUES,), tl.float32).to(out.dtype.element_ty), mask=valid)


@triton.jit
def pairs(decay, C: tl.constexpr):
    """exp(G_i - G_j) for j <= i, zero above; and G."""
    i = tl.arange(0, C)
    total = tl.cumsum(decay, 0)
    gap = tl.where(i[:, None] >= i[None, :], total[:, None] - total[None, :], float("-inf"))
    return tl.exp(gap), total


@triton.jit
def solve_kernel(
    k, a, b, a_log, dt_bias, slots, cu_q, inverses, k_stride, a_stride, b_stride, SHARED, R, G, K,
    K_PAD: tl.constexpr, C: tl.constexpr, R_PAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The inverse of I + A of one chunk and head, fp32 [N, G, C, C]."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    ends = tl.cumsum(chunk_counts(cu_q, R, R_PAD, C), 0)
    row = tl.sum((ends <= chunk).to(tl.int32), 0)
    if row < R:
        before = tl.max(tl.where(tl.arange(0, R_PAD) < row, ends, 0), 0)
        token = tl.load(cu_q + row) + (chunk - before) * C + tl.arange(0, C)
        inside = token < tl.load(cu_q + row + 1)
        at = token.to(tl.int64)
        decay, beta = gates(a + at * a_stride, b + at * b_stride, a_log, dt_bias, head, inside)
        key = unit_rows(k, k_stride, head // SHARED, token, inside, K, K_PAD)
        fade, _ = pairs(decay, C)
        i = tl.arange(0, C)
        products = tl.dot(key, tl.trans(key), input_precision=PRECISION)
        system = tl.where(i[:, None] > i[None, :], products * fade * beta[:, None], 0.0)
        inverse = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
        for line in range(1, C):
            factors = tl.sum(tl.where(i[:, None] == line, system, 0.0), 0)
            solved = tl.sum(factors[:, None] * inverse, 0)
            inverse = tl.where(i[:, None] == line, inverse - solved[None, :], inverse)
        place = (chunk.to(tl.int64) * G + head) * C * C
        tl.store(inverses + place + i[:, None] * C + i[None, :], inverse)


@triton.jit
def half_rows(x, stride, head, token, inside, K, first, HALF: tl.constexpr):
    """Columns [first, first + HALF) of a head's rows, fp32, not scaled."""
    column = first + tl.arange(0, HALF)
    at = token.to(tl.int64)[:, None] * stride + head * K + column[None, :]
    return tl.load(x + at, mask=inside[:, None] & (column[None, :] < K), other=0.0).to(tl.float32)


@triton.jit
def scan_kernel(  # noqa: PLR0915
    q, k, v, a, b, a_log, dt_bias, states, slots, cu_q, fresh, inverses, out,
    q_stride, k_stride, v_stride, a_stride, b_stride, scale, SHARED, R, G, K, V,
    FRESH: tl.constexpr, K_PAD: tl.constexpr, C: tl.constexpr, R_PAD: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One row, one head, a block of value columns, chunk after chunk; the state stays in registers.

    It does so in two halves of the key width, and lengths are taken out of the products: operands of the whole width
    spill on sm_90 even at 16 tokens (160 bytes a thread), and what is loaded is exact in TF32, its scaled form is not.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    first, end = tl.load(cu_q + row), tl.load(cu_q + row + 1)
    HALF: tl.constexpr = K_PAD // 2
    index, column = tl.arange(0, HALF)[:, None], tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    i, valid = tl.arange(0, C), column < V
    if slot >= 0:
        pool = states + (slot * G + head) * K * V + index * V + column[None, :]
        known0, known1 = (index < K) & valid[None, :], (index + HALF < K) & valid[None, :]
        carried = K
        if FRESH:
            carried = tl.where(tl.load(fresh + row) == 0, K, 0)
        state0 = tl.load(pool, mask=(index < carried) & valid[None, :], other=0.0)
        state1 = tl.load(pool + HALF * V, mask=(index + HALF < carried) & valid[None, :], other=0.0)
        counts = chunk_counts(cu_q, R, R_PAD, C)
        chunk = tl.sum(tl.where(tl.arange(0, R_PAD) < row, counts, 0), 0).to(tl.int64)
        for start in range(first, end, C):
            token = start + i
            inside = token < end
            at = token.to(tl.int64)
            decay, beta = gates(a + at * a_stride, b + at * b_stride, a_log, dt_bias, head, inside)
            fade, total = pairs(decay, C)
            whole = tl.sum(decay, 0)
            key0 = half_rows(k, k_stride, head // SHARED, token, inside, K, 0, HALF)
            key1 = half_rows(k, k_stride, head // SHARED, token, inside, K, HALF, HALF)
            length = tl.rsqrt(tl.sum(key0 * key0, 1) + tl.sum(key1 * key1, 1) + 1e-6)
            here = inside[:, None] & valid[None, :]
            place = at[:, None] * v_stride + head * V + column[None, :]
            value = tl.load(v + place, mask=here, other=0.0).to(tl.float32)
            recalled = tl.dot(key0, state0, input_precision=PRECISION)
            recalled = tl.dot(key1, state1, recalled, input_precision=PRECISION)
            recalled *= (length * tl.exp(total))[:, None]
            inverse = tl.load(inverses + (chunk * G + head) * C * C + i[:, None] * C + i[None, :])
            change = tl.dot(inverse, (value - recalled) * beta[:, None], input_precision=PRECISION)
            query0 = half_rows(q, q_stride, head // SHARED, token, inside, K, 0, HALF)
            query1 = half_rows(q, q_stride, head // SHARED, token, inside, K, HALF, HALF)
            reach = tl.rsqrt(tl.sum(query0 * query0, 1) + tl.sum(query1 * query1, 1) + 1e-6) * scale
            scores = tl.dot(query0, tl.trans(key0), input_precision=PRECISION)
            scores = tl.dot(query1, tl.trans(key1), scores, input_precision=PRECISION)
            scores *= fade * length[None, :] * reach[:, None]
            result = tl.dot(query0, state0, input_precision=PRECISION)
            result = tl.dot(query1, state1, result, input_precision=PRECISION) * (reach * tl.exp(total))[:, None]
            result = tl.dot(scores, change, result, input_precision=PRECISION)
            place = (at[:, None] * G + head) * V + column[None, :]
            tl.store(out + place, result.to(out.dtype.element_ty), mask=here)
            change *= (length * tl.exp(whole - total))[:, None]
            state0 = tl.dot(tl.trans(key0), change, state0 * tl.exp(whole), input_precision=PRECISION)
            state1 = tl.dot(tl.trans(key1), change, state1 * tl.exp(whole), input_precision=PRECISION)
            chunk += 1
        tl.store(pool, state0, mask=known0)
        tl.store(pool + HALF * V, state1, mask=known1)
    else:
        for start in range(first, end, C):
            at = (start + i).to(tl.int64)
            nothing = tl.zeros((C, VALUES), tl.float32).to(out.dtype.element_ty)
            here = (start + i < end)[:, None] & valid[None, :]
            tl.store(out + (at[:, None] * G + head) * V + column[None, :], nothing, mask=here)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor,
    scale: float,
    fresh: Tensor | None = None,
) -> Tensor:
    """Several rows' tokens."""
    q, k, v, a, b, a_log, dt_bias, slots = _dense(q, k, v, a, b, a_log, dt_bias, slots)
    cu_q, new = cu_q.contiguous(), slots if fresh is None else fresh.contiguous().view(torch.uint8)
    (tokens, heads, width), (_, value_heads, value_width), count = k.shape, v.shape, len(slots)
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if count == 0:
        return out
    size, shared, columns = chunk_size(k.device), value_heads // heads, values_of(device_info(k.device))
    most = tokens // size + count  # chunks, whatever the rows' lengths
    inverses = torch.empty((most, value_heads, size, size), dtype=torch.float32, device=k.device)
    settings = {
        "K_PAD": max(triton.next_power_of_2(width), 32),
        "C": size,
        "R_PAD": triton.next_power_of_2(count),
        "PRECISION": precision(k),
    }
    solve_kernel[(most, value_heads)](
        k, a, b, a_log, dt_bias, slots, cu_q, inverses, k.stride(0), a.stride(0), b.stride(0), shared, count,
        value_heads, width, **settings, num_warps=4,
    )  # fmt: skip
    scan_kernel[(count, value_heads, triton.cdiv(value_width, columns))](
        q, k, v, a, b, a_log, dt_bias, states, slots, cu_q, new, inverses, out, q.stride(0), k.stride(0), v.stride(0),
        a.stride(0), b.stride(0), scale, shared, count, value_heads, width, value_width, FRESH=fresh is not None,
        VALUES=columns, **settings, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    scale: float,
) -> Tensor:
    """One token a row."""
    q, k, v, a, b, a_log, dt_bias, slots = _dense(q, k, v, a, b, a_log, dt_bias, slots)
    (count, heads, width), (_, value_heads, value_width) = k.shape, v.shape
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if count:
        step_kernel[(count, value_heads, triton.cdiv(value_width, VALUES))](
            q, k, v, a, b, a_log, dt_bias, states, slots, out, q.stride(0), k.stride(0), v.stride(0), a.stride(0),
            b.stride(0), scale, value_heads // heads, value_heads, width, value_width,
            K_PAD=triton.next_power_of_2(width), VALUES=VALUES, num_warps=4,
        )  # fmt: skip
    return out


def chunk_size(device: torch.device) -> int:
    """Tokens of a chunk, the most that do not spill: on sm_90, 32 spill 584 bytes a thread, 64 spill 704."""
    return 16 if device.type == "cuda" and torch.version.hip is None else 32


def values_of(device: DeviceInfo) -> int:
    """Value columns of a program of ``scan_kernel``: 32 spill 324 bytes a thread on sm_120."""
    return VALUES if device.products_from_shared or device.vendor != "nvidia" else VALUES // 2


def precision(x: Tensor) -> str:
    """Products of fp32 numbers: exact for fp32 models, and where AMD's units are (they have no other); else TF32."""
    exact = x.dtype == torch.float32 or x.device.type != "cuda" or torch.version.hip is not None
    return "ieee" if exact else "tf32"


def _dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors whose tokens may be spaced, and nothing else."""
    return tuple(t if t.dim() > 1 and t[:1].is_contiguous() and t.shape[0] else t.contiguous() for t in tensors)
