"""The walk over paged keys that decode and prefill share.

A program's rows are (query, head of the group) pairs that share one head of the cache, query by query: row r of a
request is query r // GROUP. So a tile of keys serves the whole group, whatever its size, and prefill wastes no rows on
groups that are no power of two. Scores are in units of log2.

Legend: M rows of a program, N keys at a time, D key width, V value width.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # finite: LOWEST - LOWEST is 0 and not NaN


@triton.jit
def load_queries(q, token_M, head_M, inside_M, q_stride, D: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr):
    """Queries [M, D] of tokens and heads."""
    column = tl.arange(0, BLOCK_D)
    place = token_M.to(tl.int64) * q_stride + head_M * D
    mask = inside_M[:, None] & (column < D)[None, :]
    return tl.load(q + place[:, None] + column[None, :], mask=mask, other=0.0).to(DOT)


@triton.jit
def walk(
    acc,
    top,
    total,
    q,
    k_cache,
    v_cache,
    table,
    position_M,
    low,
    high,
    scale,
    soft_cap,
    window,
    k_page,
    v_page,
    head,
    H_KV: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    MASKED: tl.constexpr,
    DOT: tl.constexpr,
):
    """Take keys [low, high) into the running softmax (acc, top, total).

    The page of the next keys is looked up an iteration ahead: only then do their loads overlap with the products.
    Unmasked, every row sees all of these keys, a multiple of BLOCK_N.
    """
    step_N, d, v = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    k_cache += head * D
    v_cache += head * V
    page_N = tl.load(table + (low + step_N) // PAGE, mask=low + step_N < high, other=0)
    for start in range(low, high, BLOCK_N):
        key_N = start + step_N
        there_N = key_N < high
        wide_N, offset_N = page_N.to(tl.int64), key_N % PAGE
        k_at_N, v_at_N = wide_N * k_page + offset_N * (H_KV * D), wide_N * v_page + offset_N * (H_KV * V)
        page_N = tl.load(table + (key_N + BLOCK_N) // PAGE, mask=key_N + BLOCK_N < high, other=0)
        k_at, v_at = k_cache + k_at_N[None, :] + d[:, None], v_cache + v_at_N[:, None] + v[None, :]
        if MASKED or BLOCK_D != D:
            k = tl.load(k_at, mask=there_N[None, :] & (d < D)[:, None], other=0.0)
        else:
            k = tl.load(k_at)
        scores = tl.dot(q, k.to(DOT), input_precision="ieee") * scale
        if CAPPED:
            scores = soft_cap * (1.0 - 2.0 / (1.0 + tl.exp2(scores)))
        if MASKED:
            seen = there_N[None, :] & (key_N[None, :] <= position_M[:, None])
            if WINDOW:
                seen &= key_N[None, :] > position_M[:, None] - window
            scores = tl.where(seen, scores, float("-inf"))
        above = tl.maximum(top, tl.max(scores, 1))
        factor = tl.exp2(top - above)
        p = tl.exp2(scores - above[:, None])
        total = total * factor + tl.sum(p, 1)
        if MASKED or BLOCK_V != V:  # a slot that no token filled may hold NaN, and 0 * NaN is NaN
            values = tl.load(v_at, mask=there_N[:, None] & (v < V)[None, :], other=0.0)
        else:
            values = tl.load(v_at)
        acc = tl.dot(p.to(DOT), values.to(DOT), acc * factor[:, None], input_precision="ieee")
        top = above
    return acc, top, total


@triton.jit
def finish(acc, top, total, sinks, head_M, inside_M, v_scale, SINKS: tl.constexpr):
    """(output, natural log-sum-exp); zeros and -inf in rows that saw no key."""
    nothing = total == 0.0
    if SINKS:
        sink = tl.load(sinks + head_M, mask=inside_M, other=0.0) * LOG2E
        above = tl.maximum(top, sink)
        shrunk = tl.exp2(top - above)
        total = total * shrunk + tl.where(sink == above, 1.0, tl.exp2(sink - above))  # of infinity too
        acc *= shrunk[:, None]
        top = above
    safe = tl.where(nothing, 1.0, total)
    return acc * (tl.where(nothing, 0.0, v_scale) / safe)[:, None], tl.where(
        nothing, float("-inf"), (top + tl.log2(safe)) / LOG2E
    )


@triton.jit
def store(out, lse, result, lse_M, token_M, head_M, inside_M, H: tl.constexpr, V: tl.constexpr, BLOCK_V: tl.constexpr):
    """Write rows of out [T, H, V] and lse [T, H]."""
    v = tl.arange(0, BLOCK_V)
    place = token_M.to(tl.int64) * H + head_M
    mask = inside_M[:, None] & (v < V)[None, :]
    tl.store(out + place[:, None] * V + v[None, :], result.to(out.dtype.element_ty), mask=mask)
    tl.store(lse + place, lse_M, mask=inside_M)
