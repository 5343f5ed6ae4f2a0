"""Decode in Triton: one program a row, head of the cache and split of the keys, then a merge by log-sum-exp.

Each row is cut by its own length alone, so its result does not depend on the batch.
Arguments have passed the public functions' checks. Legend: M rows of a program, P parts.
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
from .merge import merge_parts

SPLIT = 256  # keys that are worth a program of their own


@triton.jit
def decode_kernel(
    q,
    k_cache,
    v_cache,
    tables,
    lengths,
    sinks,
    out,
    lse,
    queries,
    tokens,
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
    SPLITS: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    DOT: tl.constexpr,
):
    """Program (row, head of the cache and block of its rows, split): its part of out [splits, T, H, V] and lse."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    head, block = tl.program_id(1) % H_KV, tl.program_id(1) // H_KV
    length = tl.load(lengths + row)
    place_M = block * BLOCK_M + tl.arange(0, BLOCK_M)
    query_M, head_M = place_M // GROUP, head * GROUP + place_M % GROUP
    inside_M = query_M < queries
    token_M = row * queries + query_M
    position_M = length - queries + query_M
    oldest = 0
    if WINDOW:
        oldest = tl.maximum(length - queries + 1 - window, 0)
    part = tl.maximum(tl.cdiv(tl.cdiv(length - oldest, SPLITS), BLOCK_N) * BLOCK_N, MIN_SPLIT)
    low = oldest + split * part
    high = tl.minimum(low + part, length)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    top, total = tl.full([BLOCK_M], LOWEST, tl.float32), tl.zeros([BLOCK_M], tl.float32)
    if low < high:
        wide = load_queries(q, token_M, head_M, inside_M, q_stride, D, BLOCK_D, DOT)
        acc, top, total = walk(
            acc, top, total, wide, k_cache, v_cache, tables + row * table_stride, position_M, low, high, scale,
            soft_cap, window, k_page, v_page, head, H_KV, D, V, PAGE, BLOCK_N, BLOCK_D, BLOCK_V, WINDOW, CAPPED, True,
            DOT,
        )  # fmt: skip
    result, lse_M = finish(acc, top, total, sinks, head_M, inside_M, v_scale, SINKS)
    skipped = split.to(tl.int64) * tokens * (GROUP * H_KV)
    store(out + skipped * V, lse + skipped, result, lse_M, token_M, head_M, inside_M, GROUP * H_KV, V, BLOCK_V)


def splits_of(kv_heads: int) -> int:
    """The most parts that a row is cut into: for one row, some 256 programs in all."""
    return min(max(256 // kv_heads, 16), 128)


def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """As many queries in every row."""
    q, block_tables, rows = dense_heads(q), dense_rows(block_tables), seq_lens.shape[0]
    tokens, heads, _ = q.shape
    queries = tokens // max(rows, 1)
    shape = launch_for(q, k_cache, v_cache, queries)
    most = splits_of(k_cache.shape[2])
    # A part has at least SPLIT keys: a short table or window needs fewer programs.
    capacity = block_tables.shape[1] * k_cache.shape[1]
    reach = min(capacity, options.window + queries) if options.window else capacity
    used = min(max(-(-reach // SPLIT), 1), most)
    whole = used == 1
    out = q.new_empty((used, tokens, heads * v_cache.shape[3]), dtype=q.dtype if whole else torch.float32)
    lse = torch.empty((used, tokens, heads), dtype=torch.float32, device=q.device)
    if tokens:
        arguments, constants = shared_arguments(q, k_cache, v_cache, block_tables, sinks, options, shape)
        grid = (rows, k_cache.shape[2] * -(-shape.rows // shape.block_m), used)
        decode_kernel[grid](
            q,
            k_cache,
            v_cache,
            block_tables,
            seq_lens.contiguous(),
            lse if sinks is None else sinks.contiguous(),
            out,
            lse,
            queries,
            tokens,
            *arguments,
            SPLITS=most,
            MIN_SPLIT=SPLIT,
            **{**constants, "SINKS": sinks is not None and whole},
        )
    if whole:
        return out[0], lse[0]
    return merge_parts(out, lse, None if sinks is None else sinks.contiguous(), q.dtype)
