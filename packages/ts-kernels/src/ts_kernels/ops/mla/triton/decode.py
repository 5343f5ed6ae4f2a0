"""Decode over the paged latents, the keys split among programs (flash decoding), and the merge of the splits.

A row's queries and heads lie on one axis, up to 64 of them in a program, so that a latent is read once for all. Scores
are in units of log2. Legend: T tokens, H heads, L latent width, R rotary width, M rows (queries x heads), N keys.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....platform import device_info
from ..._tensors import rows as dense
from ..weights import KvBWeight
from .plan import at, plan, programs
from .settings import dot_type, launch_for

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def split_kernel(
    q_latent, q_rope, cache, cache_scale, tables, lengths, out, lse, partial, partial_lse,
    latent_token, latent_head, rope_token, rope_head, table_stride, B, chunks, scale,
    H: tl.constexpr, Q_LEN: tl.constexpr, L: tl.constexpr, R: tl.constexpr, PAGE: tl.constexpr, BATCH: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_R: tl.constexpr, DOT: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One split of one row's keys for a block of its queries and heads."""
    split = tl.program_id(0)
    per_split, splits, ends = plan(lengths, B, chunks, BATCH, N)
    row = tl.sum((ends <= split).to(tl.int32), 0)
    if row >= B:
        return
    count, index = at(splits, row, BATCH), split - at(ends - splits, row, BATCH)
    length = tl.load(lengths + row)
    begin = index * per_split * N
    end = tl.minimum(begin + per_split * N, length)

    m, n = tl.program_id(1) * M + tl.arange(0, M), tl.arange(0, N)
    left, right = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_R)
    token, head, mine = (row * Q_LEN + m // H).to(tl.int64)[:, None], (m % H).to(tl.int64)[:, None], m < H * Q_LEN
    q_left = _load(q_latent, token * latent_token + head * latent_head + left[None, :], mine[:, None], left, L)
    q_right = _load(q_rope, token * rope_token + head * rope_head + right[None, :], mine[:, None], right, R)
    q_left, q_right = q_left.to(DOT), q_right.to(DOT)
    factor = scale * LOG2E
    if cache_scale is not None:
        factor *= tl.load(cache_scale)
    # Keys up to a query's own; of a split, up to its end.
    limit = tl.minimum(length - Q_LEN + 1 + m // H, end)

    best, total = tl.full([M], -float("inf"), tl.float32), tl.zeros([M], tl.float32)
    mean = tl.zeros([M, BLOCK_L], tl.float32)
    table = tables + row.to(tl.int64) * table_stride
    # The page of a tile is loaded one turn ahead: its latents then depend on nothing that this turn loads, and the
    # pipeliner keeps the next tile under way (without, tiles had a single buffer at any number of stages).
    page = _page_of(table, begin, n, end, PAGE, N)
    for key in tl.range(begin, end, N, num_stages=STAGES):
        next_page = _page_of(table, key + N, n, end, PAGE, N)
        inside = (key + n < end)[:, None]
        if PAGE % N == 0:
            base, step = cache + (page.to(tl.int64) * PAGE + key % PAGE) * (L + R), n * (L + R)
        else:
            base, step = cache, (page.to(tl.int64) * PAGE + (key + n) % PAGE) * (L + R)
        latents = _load(base, step[:, None] + left[None, :], inside, left, L).to(DOT)
        ropes = _load(base, step[:, None] + L + right[None, :], inside, right, R).to(DOT)
        scores = tl.dot(q_left, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(q_right, tl.trans(ropes), scores, input_precision="ieee") * factor
        scores = tl.where((key + n)[None, :] < limit[:, None], scores, -float("inf"))
        above = tl.maximum(best, tl.max(scores, 1))
        safe = tl.where(above == -float("inf"), 0.0, above)
        weights, fade = tl.exp2(scores - safe[:, None]), tl.exp2(best - safe)
        total = total * fade + tl.sum(weights, 1)
        mean = tl.dot(weights.to(DOT), latents, mean * fade[:, None], input_precision="ieee")
        best, page = above, next_page

    total = tl.where(total == 0, 1.0, total)
    mean, summed = mean / total[:, None], best + tl.log2(total)
    whole = mine[:, None] & (left < L)[None, :]
    if count == 1:
        if cache_scale is not None:
            mean *= tl.load(cache_scale)
        _store(out, lse, mean, summed * LN2, row.to(tl.int64) * (H * Q_LEN) + m, left, mine, whole, L)
    else:
        _store(partial, partial_lse, mean, summed, split.to(tl.int64) * (H * Q_LEN) + m, left, mine, whole, L)


@triton.jit
def _store(out, lse, mean, summed, place, column, mine, whole, L: tl.constexpr):
    """A block's means and log-sum-exps, where ``lse`` is wanted."""
    tl.store(out + place[:, None] * L + column[None, :], mean.to(out.dtype.element_ty), mask=whole)
    if lse is not None:
        tl.store(lse + place, summed, mask=mine)


@triton.jit
def _page_of(table, key, n, end, PAGE: tl.constexpr, N: tl.constexpr):
    """The page of a tile, or the page of each of its keys where a tile may span several; 0 past the end."""
    if PAGE % N == 0:
        page = tl.load(table + key // PAGE, mask=key < end, other=0)
    else:
        page = tl.load(table + (key + n) // PAGE, mask=key + n < end, other=0)
    return page


@triton.jit
def _load(base, offset, inside, column, WIDTH: tl.constexpr):
    """Entries, zero where there is none: an empty slot of the cache may hold NaN, and zero times that is NaN."""
    if column.shape[0] == WIDTH:
        values = tl.load(base + offset, mask=inside, other=0.0)
    else:
        values = tl.load(base + offset, mask=inside & (column < WIDTH)[None, :], other=0.0)
    return values


@triton.jit
def merge_kernel(
    partial, partial_lse, cache_scale, lengths, out, lse, B, chunks,
    ROWS: tl.constexpr, L: tl.constexpr, BATCH: tl.constexpr, N: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """One query and head, some columns: the mean of its splits' means, weighted by their sums."""
    place = tl.program_id(0).to(tl.int64)
    row, m = tl.program_id(0) // ROWS, tl.program_id(0) % ROWS
    _, splits, ends = plan(lengths, B, chunks, BATCH, N)
    count = at(splits, row, BATCH)
    if count == 1:
        return
    first = (at(ends, row, BATCH) - count).to(tl.int64)
    column = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    best, total = -float("inf"), 0.0
    mean = tl.zeros([BLOCK_L], tl.float32)
    for start in tl.range(0, count, SPLITS):
        split = start + tl.arange(0, SPLITS)
        source = (first + split) * ROWS + m
        sums = tl.load(partial_lse + source, mask=split < count, other=-float("inf"))
        above = tl.maximum(best, tl.max(sums, 0))
        safe = tl.where(above == -float("inf"), 0.0, above)
        weights, fade = tl.exp2(sums - safe), tl.exp2(best - safe)
        seen = (split < count)[:, None] & (column < L)[None, :]
        values = tl.load(partial + source[:, None] * L + column[None, :], mask=seen, other=0.0)
        mean = mean * fade + tl.sum(values * weights[:, None], 0)
        total = total * fade + tl.sum(weights, 0)
        best = above
    factor = 1.0 / tl.where(total == 0, 1.0, total)
    if cache_scale is not None:
        factor *= tl.load(cache_scale)
    tl.store(out + place * L + column, (mean * factor).to(out.dtype.element_ty), mask=column < L)
    if lse is not None and tl.program_id(1) == 0:
        tl.store(lse + place, (best + tl.log2(tl.where(total == 0, 1.0, total))) * LN2)


def decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """A few queries a row, absorbed by the caller. The launch depends on shapes alone, so a graph may capture it."""
    tokens, heads, latent = q_latent.shape
    batch, rows, rope, page = seq_lens.shape[0], q_len * heads, q_rope.shape[2], cache.shape[1]
    out = torch.empty((tokens, heads, latent), dtype=q_latent.dtype, device=q_latent.device)
    if tokens == 0:
        return out
    q_latent, q_rope = dense(q_latent), dense(q_rope)
    block_tables, seq_lens = dense(block_tables), seq_lens.contiguous()
    launch = launch_for(device_info(q_latent.device), rows, q_latent.dtype, cache.dtype, latent)
    row_blocks = triton.cdiv(rows, launch.rows)
    grid, chunks = programs(batch, row_blocks, q_latent.device)
    partial = torch.empty((grid, rows, latent), dtype=torch.float32, device=q_latent.device)
    partial_lse = torch.empty((grid, rows), dtype=torch.float32, device=q_latent.device)
    sizes: dict[str, Any] = {"L": latent, "BATCH": triton.next_power_of_2(batch), "N": launch.tile}
    split_kernel[(grid, row_blocks)](
        q_latent, q_rope, cache, cache_scale, block_tables, seq_lens, out, lse, partial, partial_lse,
        q_latent.stride(0), q_latent.stride(1), q_rope.stride(0), q_rope.stride(1), block_tables.stride(0),
        batch, chunks, scale,
        H=heads, Q_LEN=q_len, R=rope, PAGE=page, M=launch.rows, BLOCK_L=triton.next_power_of_2(latent),
        BLOCK_R=max(triton.next_power_of_2(rope), 16), DOT=dot_type(q_latent.dtype), STAGES=launch.stages,
        num_warps=launch.warps, **sizes,
    )  # fmt: skip
    columns = min(triton.next_power_of_2(latent), 128)
    merge_kernel[(tokens * heads, triton.cdiv(latent, columns))](
        partial, partial_lse, cache_scale, seq_lens, out, lse, batch, chunks,
        ROWS=rows, SPLITS=16, BLOCK_L=columns, num_warps=4, **sizes,
    )  # fmt: skip
    return out


def decode(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """A few queries a row: queries into the latent space and results out of it by batched products around."""
    assert weight.source is not None
    per_head = weight.source.to(q.dtype).view(weight.heads, weight.nope + weight.v, weight.latent)
    q_latent = torch.bmm(q[..., : weight.nope].transpose(0, 1), per_head[:, : weight.nope]).transpose(0, 1)
    options: dict[str, Any] = {"q_len": q_len, "cache_scale": cache_scale, "lse": lse}
    mixed = decode_absorbed(q_latent, q[..., weight.nope :], cache, block_tables, seq_lens, scale, **options)
    out = torch.bmm(mixed.transpose(0, 1), per_head[:, weight.nope :].transpose(1, 2))
    return out.transpose(0, 1).reshape(q.shape[0], weight.heads * weight.v)
