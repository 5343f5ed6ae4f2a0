"""Cases of ts_kernels.attention, and the paged batches that they and its tests use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import attention
from .common import Case, Maker, Sizes, nbytes


@dataclass(frozen=True)
class PagedBatch:
    """Rows of several lengths in shuffled pages; slots without a token are NaN, table entries without a page wild.

    ``keys`` and ``values`` are each row's, in order and as stored: [length, H_kv, D] and [length, H_kv, V].
    """

    k_cache: Tensor
    v_cache: Tensor
    tables: Tensor
    lengths: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def to(self, device: torch.device) -> "PagedBatch":
        """The same on another device."""
        names = ("k_cache", "v_cache", "tables", "lengths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def paged_batch(
    lengths: list[int], kv_heads: int, widths: tuple[int, int], page_size: int, make: Maker, stored: torch.dtype
) -> PagedBatch:
    """Random keys of widths (D, V) of rows of these lengths."""
    needed = [-(-length // page_size) for length in lengths]
    order = make.shuffled(sum(needed) + 3).tolist()
    tables = torch.full((len(lengths), max([*needed, 1]) + 1), -7, dtype=torch.int32)
    for row, count in enumerate(needed):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int32)
    both = []
    for width in widths:
        cache = torch.full((sum(needed) + 3, page_size, kv_heads, width), torch.nan).to(stored)
        rows = [make(length, kv_heads, width).to(make.device, stored) for length in lengths]
        for row, entries in enumerate(rows):
            index = torch.arange(lengths[row])
            cache[tables[row].long()[index // page_size], index % page_size] = entries.to("cpu")
        both.append((cache, rows))
    (k_cache, keys), (v_cache, values) = both
    batch = PagedBatch(k_cache, v_cache, tables, torch.tensor(lengths, dtype=torch.int32), keys, values)
    return batch.to(make.device)


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """Four query heads share a head of the cache (two in the miniature)."""
    shared, scale = max(2, s.heads // 4), s.v**-0.5
    for variant, stored in (("", torch.bfloat16), ("fp8", torch.float8_e4m3fn)):
        batch = paged_batch([s.context] * s.rows, shared, (s.v, s.v), s.page_size, make, stored)
        yield from _over(batch, s, make, scale, variant)
    outs, lses = make(4, s.rows, s.heads * s.v), make(4, s.rows, s.heads).float()
    yield Case("attention.merge", lambda impl: attention.merge(outs, lses, impl=impl), None)


def _over(batch: PagedBatch, s: Sizes, make: Maker, scale: float, variant: str) -> Iterator[Case]:
    """Decode and prefill over these caches; ``variant`` says what they hold where it is not bf16."""
    paged = (batch.k_cache, batch.v_cache)
    q = make(s.rows, s.heads, s.v)

    def decode(impl: str | None) -> tuple[Tensor, ...]:
        done = attention.decode(q, *paged, batch.tables, batch.lengths, scale, return_lse=True, impl=impl)
        return tuple(done)

    moved, per_key = nbytes(*batch.keys, *batch.values, q, q), 4 * s.heads * s.v
    torch_decode = _torch_attention(q[:, None], batch, range(s.rows), scale)
    yield Case(
        "attention.decode", decode, torch_decode, bytes=moved, flops=s.rows * s.context * per_key, variant=variant
    )
    prompt, cu_q = make(s.prompt, s.heads, s.v), torch.tensor([0, s.prompt], dtype=torch.int32, device=make.device)

    def prefill(impl: str | None) -> tuple[Tensor, ...]:
        tables, lengths = batch.tables[:1], batch.lengths[:1]
        return tuple(attention.prefill(prompt, *paged, cu_q, tables, lengths, scale, return_lse=True, impl=impl))

    torch_prefill = _torch_attention(prompt[None], batch, range(1), scale)
    yield Case("attention.prefill", prefill, torch_prefill, variant=variant)


def _torch_attention(q_BQHD: Tensor, batch: PagedBatch, rows: range, scale: float) -> Callable[[], object]:
    """Torch's fused attention, keys and values gathered and repeated for every head beforehand."""
    group = q_BQHD.shape[2] // batch.k_cache.shape[2]
    k, v = (
        torch.stack([all_rows[row] for row in rows]).transpose(1, 2).to(q_BQHD.dtype).repeat_interleave(group, 1)
        for all_rows in (batch.keys, batch.values)
    )
    q = q_BQHD.transpose(1, 2)
    queries, keys = q.shape[2], k.shape[2]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
