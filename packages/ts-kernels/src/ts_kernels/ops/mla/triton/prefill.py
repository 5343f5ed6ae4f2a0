"""Prefill over the paged latents: keys and values expanded chunk by chunk, then attention with heads of full width.

A (query, key) pair of one head costs N + R + V multiply-adds on expanded keys and 2L + R on the latents themselves;
to expand a key costs L (N + V) once a chunk, whatever the number of queries. Kimi K2.5: 320 against 1,088, and 131,072
to expand, so expanding pays from 171 new tokens a row on; below that it costs up to L (N + V) / (2L + R) = 120 pairs'
worth a key, which the few queries of such a row do not make large. A chunk bounds memory: 16K keys of 16 heads are
134 MB, whatever the prefix. The running result is kept as mean and log-sum-exp, which is all that merging needs.

Legend: T tokens, H heads, N no-position width, R rotary width, V value width, L latent width, Q queries, K keys.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....platform import device_info
from ..weights import KvBWeight
from .settings import dot_type, prefill_launch

CHUNK = 16384
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def gather_kernel(
    cache, cache_scale, tables, starts, out, begin, count, rows, table_stride,
    W: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i] = entry ``begin + i`` of all rows' keys laid end to end; ``starts`` [rows + 1] says where rows begin."""
    local = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    index = tl.arange(0, ROWS)
    bounds = tl.load(starts + 1 + index, mask=index < rows, other=2147483647)
    key, inside = begin + local, local < count
    row = tl.minimum(tl.sum((bounds[None, :] <= key[:, None]).to(tl.int32), 1), rows - 1)
    position = key - tl.load(starts + row, mask=inside, other=0)
    page = tl.load(tables + row.to(tl.int64) * table_stride + position // PAGE, mask=inside, other=0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    source = ((page * PAGE + position % PAGE) * W)[:, None] + column[None, :]
    held = inside[:, None] & (column < W)[None, :]
    values = tl.load(cache + source, mask=held, other=0.0).to(tl.float32)
    if cache_scale is not None:
        values *= tl.load(cache_scale)
    target = local.to(tl.int64)[:, None] * W + column[None, :]
    tl.store(out + target, values.to(out.dtype.element_ty), mask=held)


@triton.jit
def attend_kernel(
    q, entries, expanded, out, mean, sums, cu_q, starts, begin, end, rows, q_token, q_head, scale,
    H: tl.constexpr, N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, L: tl.constexpr, ROWS: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr,
    DOT: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One head of ``Q`` queries of a row over its keys within the chunk [begin, end) of all keys.

    What came before is read from ``mean`` and ``sums`` and continued; the last chunk writes ``out``.
    """
    # Heads of one block of queries run side by side and share the rotary keys; a grid's other axes end at 65535.
    row, block = _row_of(tl.program_id(0) // H, tl.num_programs(0) // H, cu_q, rows, ROWS, Q)
    if row >= rows:
        return
    head = tl.program_id(0) % H
    first_token, last_token = tl.load(cu_q + row), tl.load(cu_q + row + 1)
    first_key, past_key = tl.load(starts + row), tl.load(starts + row + 1)
    i = block * Q + tl.arange(0, Q)
    mine = i < last_token - first_token
    token = (first_token + i).to(tl.int64)
    # The place of each query's own key among all keys: it sees those up to there.
    own = past_key - (last_token - first_token) + i
    low, high = tl.maximum(first_key, begin), tl.minimum(past_key, end)
    reach = past_key - (last_token - first_token) + tl.minimum((block + 1) * Q, last_token - first_token)
    high = tl.minimum(high, reach)
    if not FIRST and not LAST and high <= low:
        return

    nope, rope, value = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_V)
    source = q + (token * q_token + head.to(tl.int64) * q_head)[:, None]
    q_nope = tl.load(source + nope[None, :], mask=mine[:, None] & (nope < N)[None, :], other=0.0).to(DOT)
    q_rope = tl.load(source + N + rope[None, :], mask=mine[:, None] & (rope < R)[None, :], other=0.0).to(DOT)
    place = token * H + head
    spread = place[:, None] * V + value[None, :]
    whole = mine[:, None] & (value < V)[None, :]
    if FIRST:
        best = tl.full([Q], -float("inf"), tl.float32)
        total = tl.zeros([Q], tl.float32)
        acc = tl.zeros([Q, BLOCK_V], tl.float32)
    else:
        best = tl.load(sums + place, mask=mine, other=-float("inf"))
        total = tl.where(best == -float("inf"), 0.0, 1.0)
        acc = tl.load(mean + spread, mask=whole, other=0.0)

    factor = scale * LOG2E
    # Keys that every query of the block sees need no mask: all but the last few tiles.
    clear = low + tl.maximum(tl.minimum(high, past_key - (last_token - first_token) + block * Q + 1) - low, 0) // K * K
    for key in tl.range(low, clear, K, num_stages=STAGES):
        best, total, acc = _tile(
            best, total, acc, q_nope, q_rope, entries, expanded, key, begin, high, own, head, factor,
            H, N, R, V, L, K, BLOCK_N, BLOCK_R, BLOCK_V, DOT, False,
        )  # fmt: skip
    for key in tl.range(clear, high, K, num_stages=STAGES):
        best, total, acc = _tile(
            best, total, acc, q_nope, q_rope, entries, expanded, key, begin, high, own, head, factor,
            H, N, R, V, L, K, BLOCK_N, BLOCK_R, BLOCK_V, DOT, True,
        )  # fmt: skip
    total_or_one = tl.where(total == 0, 1.0, total)
    acc = acc / total_or_one[:, None]
    if LAST:
        tl.store(out + spread, acc.to(out.dtype.element_ty), mask=whole)
    else:
        tl.store(mean + spread, acc, mask=whole)
        tl.store(sums + place, best + tl.log2(total_or_one), mask=mine)


@triton.jit
def _row_of(place, places, cu_q, rows, ROWS: tl.constexpr, Q: tl.constexpr):
    """The row and the block of queries of this program; the row is ``rows`` where there is none."""
    index = tl.arange(0, ROWS)
    ends = tl.load(cu_q + 1 + index, mask=index < rows, other=0)
    blocks = tl.where(index < rows, tl.cdiv(ends - tl.load(cu_q + index, mask=index < rows, other=0), Q), 0)
    past = tl.cumsum(blocks, 0)
    # Later blocks see more keys: the longest start first.
    program = places - 1 - place
    row = tl.sum(((past <= program) & (index < rows)).to(tl.int32), 0)
    return row, program - tl.sum(tl.where(index == row, past - blocks, 0), 0)


@triton.jit
def _tile(
    best, total, acc, q_nope, q_rope, entries, expanded, key, begin, high, own, head, factor,
    H: tl.constexpr, N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, DOT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: scores, running softmax, weighted values. ``entries`` and ``expanded`` hold the chunk."""
    k = tl.arange(0, K)
    nope, rope, value = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_V)
    local = (key - begin).to(tl.int64)
    from_expanded = expanded + (local * H + head) * (N + V)
    from_entries = entries + local * (L + R) + L
    step_expanded, step_entries = k[:, None] * (H * (N + V)), k[:, None] * (L + R)
    if MASKED or BLOCK_N != N or BLOCK_R != R or BLOCK_V != V:
        inside = (key + k < high)[:, None]
        keys = tl.load(from_expanded + step_expanded + nope[None, :], mask=inside & (nope < N)[None, :], other=0.0)
        ropes = tl.load(from_entries + step_entries + rope[None, :], mask=inside & (rope < R)[None, :], other=0.0)
        values = tl.load(
            from_expanded + step_expanded + N + value[None, :], mask=inside & (value < V)[None, :], other=0.0
        )
    else:
        keys = tl.load(from_expanded + step_expanded + nope[None, :])
        ropes = tl.load(from_entries + step_entries + rope[None, :])
        values = tl.load(from_expanded + step_expanded + N + value[None, :])
    scores = tl.dot(q_nope, tl.trans(keys.to(DOT)), input_precision="ieee")
    scores = tl.dot(q_rope, tl.trans(ropes.to(DOT)), scores, input_precision="ieee") * factor
    if MASKED:
        seen = (key + k)[None, :] <= tl.minimum(own, high - 1)[:, None]
        scores = tl.where(seen, scores, -float("inf"))
    above = tl.maximum(best, tl.max(scores, 1))
    safe = tl.where(above == -float("inf"), 0.0, above)
    weights, fade = tl.exp2(scores - safe[:, None]), tl.exp2(best - safe)
    total = total * fade + tl.sum(weights, 1)
    acc = tl.dot(weights.to(DOT), values.to(DOT), acc * fade[:, None], input_precision="ieee")
    return above, total, acc


def prefill(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    cache_scale: Tensor | None = None,
    host_seq_lens: Sequence[int] | None = None,
) -> Tensor:
    """Causal attention of several rows."""
    assert weight.source is not None
    (tokens, heads, _), rows = q.shape, seq_lens.shape[0]
    out = torch.empty((tokens, heads * weight.v), dtype=q.dtype, device=q.device)
    if tokens == 0:
        return out
    lengths = list(seq_lens.tolist() if host_seq_lens is None else host_seq_lens)
    total, step = sum(lengths), min(CHUNK, max(sum(lengths), 1))
    q = q if q.stride(2) == 1 else q.contiguous()
    block_tables = block_tables if block_tables.stride(1) == 1 else block_tables.contiguous()
    starts = torch.zeros(rows + 1, dtype=torch.int32, device=q.device)
    torch.cumsum(seq_lens, 0, dtype=torch.int32, out=starts[1:])
    mean = torch.empty((tokens, heads, weight.v) if total > step else (0,), dtype=torch.float32, device=q.device)
    sums = torch.empty((tokens, heads) if total > step else (0,), dtype=torch.float32, device=q.device)
    entries = torch.empty((step, cache.shape[2]), dtype=q.dtype, device=q.device)
    expanded = torch.empty((step, heads * (weight.nope + weight.v)), dtype=q.dtype, device=q.device)
    up = weight.source.to(q.dtype).t()
    for begin in range(0, total, step):
        end = min(begin + step, total)
        _gather(cache, cache_scale, block_tables, starts, entries[: end - begin], begin)
        torch.matmul(entries[: end - begin, : weight.latent], up, out=expanded[: end - begin])
        keys, place = (entries, expanded), (begin, end, begin == 0, end == total)
        _attend(q, keys, (out, mean, sums), weight, cu_q.contiguous(), starts, place, scale)
    return out


def _gather(
    cache: Tensor, cache_scale: Tensor | None, tables: Tensor, starts: Tensor, entries: Tensor, begin: int
) -> None:
    count, width = entries.shape
    rows, keys = tables.shape[0], 8
    gather_kernel[(triton.cdiv(count, keys),)](
        cache, cache_scale, tables, starts, entries, begin, count, rows, tables.stride(0),
        W=width, PAGE=cache.shape[1], ROWS=triton.next_power_of_2(rows), KEYS=keys,
        BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip


def _attend(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    results: tuple[Tensor, Tensor, Tensor],
    weight: KvBWeight,
    cu_q: Tensor,
    starts: Tensor,
    place: tuple[int, int, bool, bool],
    scale: float,
) -> None:
    (tokens, heads, width), rows = q.shape, cu_q.shape[0] - 1
    rope = width - weight.nope
    launch = prefill_launch(device_info(q.device), q.dtype)
    begin, end, first, last = place
    sizes: dict[str, Any] = {"H": heads, "N": weight.nope, "R": rope, "V": weight.v, "L": weight.latent}
    for name, size in (("BLOCK_N", weight.nope), ("BLOCK_R", rope), ("BLOCK_V", weight.v)):
        sizes[name] = max(triton.next_power_of_2(size), 16)
    attend_kernel[(heads * (triton.cdiv(tokens, launch.rows) + rows),)](  # blocks are at most these many
        q, *keys, *results, cu_q, starts, begin, end, rows, q.stride(0), q.stride(1), scale,
        ROWS=triton.next_power_of_2(rows), Q=launch.rows, K=launch.tile, DOT=dot_type(q.dtype), FIRST=first,
        LAST=last, STAGES=launch.stages, num_warps=launch.warps, **sizes,
    )  # fmt: skip
