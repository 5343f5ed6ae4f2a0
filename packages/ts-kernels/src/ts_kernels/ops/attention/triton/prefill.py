"""Causal prefill in Triton over a paged cache, prefix included (FlashAttention-2, arXiv 2307.08691).

Arguments have passed the public functions' checks. Legend: M rows of a program, B requests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import dense_heads
from ..._tensors import rows as dense_rows
from ..options import Options
from ._launch import launch_for, shared_arguments
from ._walk import LOWEST, finish, load_queries, store, walk


@triton.jit
def first_tile(cu_q, row, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """The first tile of a request; at most so many are in use before it, so the host need not know cu_q."""
    return tl.load(cu_q + row) * GROUP // BLOCK_M + row


@triton.jit
def request_of(cu_q, tile, rows, steps, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """The last request whose first tile is not after ``tile``, by bisection."""
    low = tile * 0
    high = low + rows - 1
    for _ in range(steps):
        middle = (low + high + 1) // 2
        before = first_tile(cu_q, middle, GROUP, BLOCK_M) <= tile
        low = tl.where(before, middle, low)
        high = tl.where(before, high, tl.maximum(middle - 1, low))
    return low


@triton.jit
def prefill_kernel(
    q,
    k_cache,
    v_cache,
    cu_q,
    tables,
    lengths,
    sinks,
    out,
    lse,
    rows,
    steps,
    q_stride,
    table_stride,
    k_page,
    v_page,
    scale,
    soft_cap,
    v_scale,
    window,
    GROUP: tl.constexpr,
    H_KV: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
):
    """Program (tile of a request's rows, head of the cache). The last tiles have most keys, and start first."""
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    row = request_of(cu_q, tile, rows, steps, GROUP, BLOCK_M).to(tl.int64)
    first_token = tl.load(cu_q + row)
    queries = tl.load(cu_q + row + 1) - first_token
    begin = (tile - first_tile(cu_q, row, GROUP, BLOCK_M).to(tl.int32)) * BLOCK_M
    if begin < queries * GROUP:
        length = tl.load(lengths + row)
        place_M = begin + tl.arange(0, BLOCK_M)
        query_M, head_M = place_M // GROUP, head * GROUP + place_M % GROUP
        inside_M = query_M < queries
        token_M = first_token + query_M
        position_M = length - queries + query_M
        first = length - queries + begin // GROUP
        high = tl.minimum(first - begin // GROUP + (begin + BLOCK_M - 1) // GROUP + 1, length)
        q_MD = load_queries(q, token_M, head_M, inside_M, q_stride, D, BLOCK_D, DOT)
        acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
        top, total = tl.full([BLOCK_M], LOWEST, tl.float32), tl.zeros([BLOCK_M], tl.float32)
        table = tables + row * table_stride
        low = first * 0
        if WINDOW:
            low = tl.maximum(first + 1 - window, 0)
        else:  # keys up to the first query's own need no mask
            low = tl.maximum(first + 1, 0) // BLOCK_N * BLOCK_N
            acc, top, total = walk(
                acc, top, total, q_MD, k_cache, v_cache, table, position_M, 0, low, scale, soft_cap, window, k_page,
                v_page, head, H_KV, D, V, PAGE, BLOCK_N, BLOCK_D, BLOCK_V, False, CAPPED, False, DOT,
            )  # fmt: skip
        acc, top, total = walk(
            acc, top, total, q_MD, k_cache, v_cache, table, position_M, low, high, scale, soft_cap, window, k_page,
            v_page, head, H_KV, D, V, PAGE, BLOCK_N, BLOCK_D, BLOCK_V, WINDOW, CAPPED, True, DOT,
        )  # fmt: skip
        result, lse_M = finish(acc, top, total, sinks, head_M, inside_M, v_scale, SINKS)
        store(out, lse, result, lse_M, token_M, head_M, inside_M, GROUP * H_KV, V, BLOCK_V)


def prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Each row's queries are its last positions."""
    q, block_tables, rows = dense_heads(q), dense_rows(block_tables), seq_lens.shape[0]
    tokens, heads, _ = q.shape
    out = torch.empty((tokens, heads * v_cache.shape[3]), dtype=q.dtype, device=q.device)
    lse = torch.empty((tokens, heads), dtype=torch.float32, device=q.device)
    if tokens and rows:
        shape = launch_for(q, k_cache, v_cache, None)
        arguments, constants = shared_arguments(q, k_cache, v_cache, block_tables, sinks, options, shape)
        tiles = tokens * (heads // k_cache.shape[2]) // shape.block_m + rows
        prefill_kernel[(tiles, k_cache.shape[2])](
            q,
            k_cache,
            v_cache,
            cu_q.contiguous(),
            block_tables,
            seq_lens.contiguous(),
            lse if sinks is None else sinks.contiguous(),
            out,
            lse,
            rows,
            rows.bit_length(),
            *arguments,
            **constants,
        )
    return out, lse
