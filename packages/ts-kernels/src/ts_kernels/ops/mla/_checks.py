"""What is wrong with the arguments of latent attention: called where an inline check has failed, and in debug mode."""

import torch
from torch import Tensor

from ... import contract
from .weights import KvBWeight

MOST_QUERIES = 8  # of a row in a call of decode


def reject(
    operation: str,
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    block_tables: Tensor,
    seq_lens: Tensor,
    rows: int | None = None,
    cu_q: Tensor | None = None,
) -> None:
    """Name what breaks the contract of ``decode`` or ``prefill``."""
    contract.shape(operation, "q", q, "T", weight.heads, "N+R")
    contract.shape(operation, "cache", cache, "pages", "page_size", weight.latent + q.shape[2] - weight.nope)
    if q.shape[2] <= weight.nope:
        contract.fail(operation, "q", f"wider than {weight.nope}, the no-position part of a head", q)
    if cu_q is not None:
        contract.shape(operation, "seq_lens", seq_lens, "B")
        contract.shape(operation, "cu_q", cu_q, seq_lens.shape[0] + 1)
        contract.dtype(operation, "cu_q", cu_q, torch.int32)
        contract.device(operation, q, cu_q=cu_q)
    _reject_rows(operation, q, cache, block_tables, seq_lens, rows)
    contract.fail(operation, "weight", f"on {q.device} like q", f"kv_b on {weight.device}")


def reject_absorbed(
    q_latent: Tensor, q_rope: Tensor, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, rows: int
) -> None:
    """Name what breaks the contract of ``decode_absorbed``."""
    operation = "mla.decode_absorbed"
    contract.shape(operation, "q_latent", q_latent, "T", "H", "L")
    contract.shape(operation, "q_rope", q_rope, *q_latent.shape[:2], "R")
    contract.dtype(operation, "q_rope", q_rope, q_latent.dtype)
    contract.device(operation, q_latent, q_rope=q_rope)
    for name, queries in (("q_latent", q_latent), ("q_rope", q_rope)):
        if 0 in queries.shape[1:]:
            contract.fail(operation, name, "of at least one head and one column", queries)
    contract.shape(operation, "cache", cache, "pages", "page_size", q_latent.shape[2] + q_rope.shape[2])
    _reject_rows(operation, q_latent, cache, block_tables, seq_lens, rows)


def _reject_rows(
    operation: str, q: Tensor, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, rows: int | None
) -> None:
    contract.shape(operation, "seq_lens", seq_lens, "B" if rows is None else rows)
    contract.shape(operation, "block_tables", block_tables, seq_lens.shape[0], "max_pages")
    contract.dtype(operation, "block_tables", block_tables, torch.int32)
    contract.dtype(operation, "seq_lens", seq_lens, torch.int32)
    contract.contiguous(operation, "cache", cache)
    if cache.shape[1] == 0:
        contract.fail(operation, "cache", "of at least one entry a page", cache)
    contract.device(operation, q, cache=cache, block_tables=block_tables, seq_lens=seq_lens)


def rows_of(operation: str, argument: str, tokens: Tensor, q_len: int) -> int:
    """How many rows ``tokens`` holds, ``q_len`` queries each."""
    if tokens.dim() == 0:
        contract.shape(operation, argument, tokens, "T", "H", "width")
    if not 1 <= q_len <= MOST_QUERIES:
        contract.fail(operation, "q_len", f"from 1 to {MOST_QUERIES}", q_len)
    if tokens.shape[0] % q_len:
        contract.fail(operation, argument, f"a multiple of q_len = {q_len} tokens", tokens)
    return tokens.shape[0] // q_len


def check_values(
    operation: str, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, queries: int | list[int]
) -> None:
    """Debug mode: lengths fit the tables and the queries, and every page that a row reads exists."""
    room = block_tables.shape[1] * cache.shape[1]
    contract.in_range(operation, "seq_lens", seq_lens, 0, room + 1)
    for row, length in enumerate(seq_lens.tolist()):
        if isinstance(queries, list) and length < queries[row]:
            contract.fail(operation, f"seq_lens[{row}]", f"at least {queries[row]}, the row's queries", length)
        if isinstance(queries, int) and 0 < length < queries:
            contract.fail(operation, f"seq_lens[{row}]", f"0 or at least q_len = {queries}", length)
        used = block_tables[row, : -(-length // cache.shape[1])]
        contract.in_range(operation, f"block_tables[{row}]", used, 0, cache.shape[0])
