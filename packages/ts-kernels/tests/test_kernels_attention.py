"""MLA over the paged cache: native against reference, and both against attention written out with dense keys."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_kernels import checking, mla

FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
SIZES = st.sampled_from(
    [(4, 32, 16, 32, 64), (1, 8, 2, 8, 16), (3, 24, 6, 20, 40), (16, 16, 8, 16, 32), (2, 33, 2, 31, 65)]
)
Close = Callable[..., None]


@dataclass
class Batch:
    """Rows of several lengths over one poisoned cache, pages shuffled; ``entries`` are each row's keys, in order."""

    cache: Tensor
    tables: Tensor
    lengths: Tensor
    entries: list[Tensor]
    weight: mla.KvBWeight
    kv_b: Tensor
    generator: torch.Generator

    def queries(self, count: int, dtype: torch.dtype) -> Tensor:
        w = self.weight
        width = w.nope + self.cache.shape[2] - w.latent
        return torch.randn(count, w.heads, width, generator=self.generator).to(dtype)


def make(
    lengths: list[int],
    sizes: tuple[int, ...],
    page_size: int,
    stored: torch.dtype,
    weight: torch.dtype = torch.bfloat16,
) -> Batch:
    heads, nope, rope, v, latent = sizes
    generator = torch.Generator().manual_seed(sum(lengths))
    needed = [-(-length // page_size) for length in lengths]
    pages = sum(needed) + 3
    order = torch.randperm(pages, generator=generator).int().tolist()
    cache = torch.full((pages, page_size, latent + rope), torch.nan).to(stored)
    tables = torch.full((len(lengths), max([*needed, 1]) + 1), -7, dtype=torch.int32)
    entries = []
    for row, (length, count) in enumerate(zip(lengths, needed, strict=True)):
        mine = [order.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(mine, dtype=torch.int32)
        keys = torch.randn(length, latent + rope, generator=generator).to(stored)
        for i in range(length):
            cache[mine[i // page_size], i % page_size] = keys[i]
        entries.append(keys)
    kv_b = (torch.randn(heads * (nope + v), latent, generator=generator) * latent**-0.5).to(weight)
    prepared = mla.prepare_kv_b(kv_b, heads, nope, v, keep_source=True)
    return Batch(cache, tables, torch.tensor(lengths, dtype=torch.int32), entries, prepared, kv_b, generator)


def written_out(q: Tensor, entries: Tensor, kv_b: Tensor, heads: int, nope: int, v: int, scale: float) -> Tensor:
    """Attention of the last ``len(q)`` positions, in fp64, one head and one query at a time."""
    latent = kv_b.shape[1]
    per_head = kv_b.double().view(heads, nope + v, latent)
    rows = []
    for i, query in enumerate(q.double()):
        seen = entries[: len(entries) - len(q) + i + 1].double()
        outs = []
        for head in range(heads):
            keys = torch.cat((seen[:, :latent] @ per_head[head, :nope].T, seen[:, latent:]), 1)
            p = torch.softmax(keys @ query[head] * scale, 0)
            outs.append(p @ (seen[:, :latent] @ per_head[head, nope:].T))
        rows.append(torch.cat(outs))
    return torch.stack(rows) if rows else torch.zeros(0, heads * v, dtype=torch.float64)


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 15, 16, 17, 31, 100, 333]), max_size=5),
    sizes=SIZES,
    page_size=st.sampled_from([1, 4, 16, 64]),
    dtype=FLOATS,
    stored=FLOATS,
    weight=FLOATS,
)
def test_decode(
    isa: str,
    assert_close: Close,
    lengths: list[int],
    sizes: tuple[int, ...],
    page_size: int,
    dtype: torch.dtype,
    stored: torch.dtype,
    weight: torch.dtype,
) -> None:
    batch = make(lengths, sizes, page_size, stored, weight)
    q = batch.queries(len(lengths), dtype)
    arguments = (q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17)
    have = mla.decode(*arguments, impl="native")
    assert_close(have, mla.decode(*arguments, impl="reference"), dtype)
    heads, nope, _, v, _ = sizes
    for row, length in enumerate(lengths):
        if length:
            assert_close(
                have[row : row + 1].double(),
                written_out(q[row : row + 1], batch.entries[row], batch.kv_b, heads, nope, v, 0.17),
                dtype,
            )
        else:
            assert not have[row].any()


@given(
    rows=st.lists(
        st.sampled_from([(0, 5), (1, 1), (1, 40), (5, 5), (7, 30), (33, 33), (20, 90), (64, 70)]), max_size=3
    ),
    sizes=SIZES,
    page_size=st.sampled_from([1, 4, 16, 64]),
    dtype=FLOATS,
    stored=FLOATS,
)
def test_prefill(
    isa: str,
    assert_close: Close,
    rows: list[tuple[int, int]],
    sizes: tuple[int, ...],
    page_size: int,
    dtype: torch.dtype,
    stored: torch.dtype,
) -> None:
    batch = make([length for _, length in rows], sizes, page_size, stored)
    counts = [count for count, _ in rows]
    q = batch.queries(sum(counts), dtype)
    cu_q = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    arguments = (q, batch.cache, batch.weight, cu_q, batch.tables, batch.lengths, 0.2)
    have = mla.prefill(*arguments, impl="native")
    assert_close(have, mla.prefill(*arguments, impl="reference"), dtype)
    heads, nope, _, v, _ = sizes
    bounds = cu_q.tolist()
    for row, entries in enumerate(batch.entries):
        mine = slice(bounds[row], bounds[row + 1])
        assert_close(have[mine].double(), written_out(q[mine], entries, batch.kv_b, heads, nope, v, 0.2), dtype)


def test_many_queries_over_a_long_context(isa: str, assert_close: Close) -> None:
    """Enough work that it is cut into tiles and over threads."""
    batch = make([700], (4, 32, 16, 32, 64), 16, torch.bfloat16)
    q = batch.queries(150, torch.float32)
    cu_q = torch.tensor([0, 150], dtype=torch.int32)
    arguments = (q, batch.cache, batch.weight, cu_q, batch.tables, batch.lengths, 0.14)
    assert_close(mla.prefill(*arguments, impl="native"), mla.prefill(*arguments, impl="reference"))
    last = mla.decode(q[-1:], batch.cache, batch.weight, batch.tables, batch.lengths, 0.14, impl="native")
    assert_close(last, mla.prefill(*arguments, impl="reference")[-1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tolerance_sees_mistakes(native: None, assert_close: Close, dtype: torch.dtype) -> None:
    """What a broken kernel would give is outside of the tolerance."""
    batch = make([70], (4, 32, 16, 32, 64), 16, torch.bfloat16)
    q = batch.queries(1, dtype)

    def attend(q: Tensor, tables: Tensor, lengths: Tensor, scale: float = 0.17) -> Tensor:
        return mla.decode(q, batch.cache, batch.weight, tables, lengths, scale, impl="native")

    want = attend(q, batch.tables, batch.lengths)
    swapped = batch.tables.clone()
    swapped[0, :2] = batch.tables[0, :2].flip(0)
    assert_close(attend(q, swapped, batch.lengths), want)  # attention has no order: a swap of whole pages is no mistake
    shifted = batch.tables.clone()
    shifted[0, 1] = shifted[0, 0]
    dropped = want.clone()
    dropped[:, 32:64] = 0
    mistakes = {
        "page read twice": attend(q, shifted, batch.lengths),
        "head dropped": dropped,
        "heads swapped": attend(q.flip(1), batch.tables, batch.lengths),
        "last key missing": attend(q, batch.tables, batch.lengths - 1),
        "wrong scale": attend(q, batch.tables, batch.lengths, 0.18),
        "all zero": torch.zeros_like(want),
    }
    for name, wrong in mistakes.items():
        assert checking.difference(wrong, want) > 2 * checking.TOLERANCE[dtype], f"{name} passes"


def test_a_row_does_not_depend_on_its_batch(isa: str) -> None:
    batch = make([50, 3, 333], (4, 32, 16, 32, 64), 16, torch.bfloat16)
    q = batch.queries(3, torch.float32)
    together = mla.decode(q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17, impl="native")
    for row in range(3):
        one = slice(row, row + 1)
        alone = mla.decode(
            q[one], batch.cache, batch.weight, batch.tables[one], batch.lengths[one], 0.17, impl="native"
        )
        assert torch.equal(alone, together[one])
