"""Checks of paged attention's arguments. Legend: B rows, T tokens, H heads, H_kv heads of the cache, D, V widths."""

import torch
from torch import Tensor

from ... import contract
from .options import Options
from .reference import first_key

PAST_DECODE = 9  # more queries a row than that are prefill's
QUERIES = frozenset({torch.float32, torch.bfloat16, torch.float16})
CACHES = QUERIES | {torch.float8_e4m3fn}


def dense_pages(cache: Tensor) -> bool:
    """Whether each page is one run of memory; pages may be spaced."""
    return cache.is_contiguous() or (cache.dim() == 4 and cache.shape[0] > 0 and cache[0].is_contiguous())


def common(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, seq_lens: Tensor, sinks: Tensor | None
) -> bool:
    """Whether what decode and prefill share is as it should be."""
    return (
        q.dim() == 3
        and k_cache.dim() == v_cache.dim() == 4
        and block_tables.dim() == 2
        and seq_lens.dim() == 1
        and k_cache.shape[:3] == v_cache.shape[:3]
        and q.shape[2] == k_cache.shape[3] > 0
        and v_cache.shape[3] > 0
        and k_cache.shape[2] > 0
        and k_cache.shape[1] > 0
        and q.shape[1] % k_cache.shape[2] == 0 < q.shape[1]
        and q.dtype in QUERIES
        and k_cache.dtype == v_cache.dtype
        and k_cache.dtype in CACHES
        and dense_pages(k_cache)
        and dense_pages(v_cache)
        and block_tables.shape[0] == seq_lens.shape[0]
        and block_tables.dtype == seq_lens.dtype == torch.int32
        and q.device == k_cache.device == v_cache.device == block_tables.device == seq_lens.device
        and (sinks is None or (sinks.shape == q.shape[1:2] and sinks.dtype == torch.float32))
        and (sinks is None or sinks.device == q.device)
    )


def flags(options: Options, sinks: Tensor | None) -> tuple[int, int]:
    """Whether scores are capped and whether there are sinks, as sizes that selection sees."""
    return int(options.soft_cap > 0.0), int(sinks is not None)


def reject(
    operation: str,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    cu_q: Tensor | None = None,
) -> None:
    """Say what is wrong."""
    contract.shape(operation, "q", q, "T", "H", "D")
    contract.dtype(operation, "q", q, *sorted(QUERIES, key=str))
    reject_caches(operation, k_cache, v_cache)
    contract.shape(operation, "k_cache", k_cache, "pages", "page_size", "H_kv", q.shape[2])
    if q.shape[1] % k_cache.shape[2] or q.shape[1] == 0:
        contract.fail(operation, "q", f"of a multiple of {k_cache.shape[2]} heads, those of the cache", q)
    contract.shape(operation, "seq_lens", seq_lens, "B")
    contract.shape(operation, "block_tables", block_tables, seq_lens.shape[0], "max_pages")
    contract.dtype(operation, "block_tables", block_tables, torch.int32)
    contract.dtype(operation, "seq_lens", seq_lens, torch.int32)
    tensors = {"k_cache": k_cache, "v_cache": v_cache, "block_tables": block_tables, "seq_lens": seq_lens}
    if sinks is not None:
        contract.shape(operation, "sinks", sinks, q.shape[1])
        contract.dtype(operation, "sinks", sinks, torch.float32)
        tensors["sinks"] = sinks
    if cu_q is not None:
        contract.shape(operation, "cu_q", cu_q, seq_lens.shape[0] + 1)
        contract.dtype(operation, "cu_q", cu_q, torch.int32)
        tensors["cu_q"] = cu_q
    contract.device(operation, q, **tensors)
    contract.fail(operation, "q", f"of 1 to {PAST_DECODE - 1} tokens for each of the {seq_lens.shape[0]} rows", q)


def reject_caches(operation: str, k_cache: Tensor, v_cache: Tensor) -> None:
    """Say what is wrong with the caches, if anything is."""
    contract.shape(operation, "k_cache", k_cache, "pages", "page_size", "H_kv", "D")
    contract.shape(operation, "v_cache", v_cache, *k_cache.shape[:3], "V")
    contract.dtype(operation, "k_cache", k_cache, *sorted(CACHES, key=str))
    contract.dtype(operation, "v_cache", v_cache, k_cache.dtype)
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if not dense_pages(cache):
            contract.fail(operation, name, "contiguous within each page", cache)
        if 0 in cache.shape[1:]:
            contract.fail(operation, name, "of at least one key a page, one head and one column", cache)


def reject_merge(outs: Tensor, lses: Tensor) -> None:
    """Say what is wrong."""
    contract.shape("attention.merge", "lses", lses, "P", "T", "H")
    contract.dtype("attention.merge", "lses", lses, torch.float32)
    if lses.shape[0] == 0 or lses.shape[2] == 0:
        contract.fail("attention.merge", "lses", "of at least one part and one head", lses)
    contract.shape("attention.merge", "outs", outs, *lses.shape[:2], "H*V")
    contract.device("attention.merge", outs, lses=lses)
    contract.fail("attention.merge", "outs", f"as wide as a multiple of the {lses.shape[2]} heads", outs)


def check_pages(
    operation: str, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, queries: int | list[int], window: int
) -> None:
    """Debug mode: lengths fit the tables and every page that a row reads exists."""
    page_size = cache.shape[1]
    contract.in_range(operation, "seq_lens", seq_lens, 0, block_tables.shape[1] * page_size + 1)
    for row, length in enumerate(seq_lens.tolist()):
        count = queries if isinstance(queries, int) else queries[row]
        first = first_key(max(length - count, 0), window) // page_size
        used = block_tables[row, first : -(-length // page_size)]
        contract.in_range(operation, f"block_tables[{row}]", used, 0, cache.shape[0])
