"""Paged attention and its cache writes: native against the reference at every instruction set, and what fails."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_kernels import attention, checking, kv_cache
from ts_kernels.cases.attention import PagedBatch, paged_batch
from ts_kernels.cases.common import Maker

Close = Callable[..., None]
FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
STORED = st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn])
# (H, H_kv, D, V): groups of 8, 4, 6, 3, 7 and 1, widths that are no whole vectors
SHAPES = st.sampled_from(
    [(16, 2, 64, 64), (8, 2, 128, 128), (12, 2, 32, 16), (3, 1, 24, 40), (7, 1, 17, 5), (5, 5, 33, 31), (6, 2, 96, 80)]
)
OPTIONS = st.fixed_dictionaries(
    {
        "window": st.sampled_from([None, None, 1, 5, 64, 300]),
        "soft_cap": st.sampled_from([None, None, 2.5]),
        "sinks": st.booleans(),
        "k_scale": st.sampled_from([1.0, 0.7]),
        "v_scale": st.sampled_from([1.0, 1.3]),
    }
)
PAGE_SIZES = st.sampled_from([1, 7, 16, 64])


def made(lengths: list[int], shape: tuple[int, ...], page_size: int, stored: torch.dtype) -> tuple[PagedBatch, Maker]:
    make = Maker(torch.float32, sum(lengths), torch.device("cpu"))
    return paged_batch(lengths, shape[1], (shape[2], shape[3]), page_size, make, stored), make


def assert_agrees(
    assert_close: Close, call: Callable[..., Any], batch: PagedBatch, q: Tensor, *place: Tensor, **options: Any
) -> None:
    arguments = (q, batch.k_cache, batch.v_cache, *place, batch.tables, batch.lengths, 0.3)
    (have, lse), (want, want_lse) = (
        call(*arguments, **options, return_lse=True, impl=impl) for impl in ("native", "reference")
    )
    assert_close(have, want, q.dtype)
    assert torch.equal(lse == -torch.inf, want_lse == -torch.inf)
    assert_close(lse.nan_to_num(neginf=0.0), want_lse.nan_to_num(neginf=0.0))
    assert not have.view(*lse.shape, batch.v_cache.shape[3])[lse == -torch.inf].any()


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 15, 31, 32, 33, 100, 256, 257, 600]), max_size=4),
    queries=st.integers(1, 8),
    shape=SHAPES,
    page_size=PAGE_SIZES,
    dtype=FLOATS,
    stored=STORED,
    options=OPTIONS,
)
def test_decode(
    isa: str,
    assert_close: Close,
    lengths: list[int],
    queries: int,
    shape: tuple[int, ...],
    page_size: int,
    dtype: torch.dtype,
    stored: torch.dtype,
    options: dict[str, Any],
) -> None:
    batch, make = made(lengths, shape, page_size, stored)
    sinks = make(shape[0]) * 2 if options["sinks"] else None
    q = make(len(lengths) * queries, shape[0] + 1, shape[2]).to(dtype)[:, 1:]
    assert_agrees(assert_close, attention.decode, batch, q, **{**options, "sinks": sinks})


@given(
    rows=st.lists(
        st.sampled_from([(0, 5), (1, 0), (1, 40), (5, 5), (7, 30), (33, 33), (20, 300), (64, 70), (12, 9), (150, 400)]),
        max_size=3,
    ),
    shape=SHAPES,
    page_size=PAGE_SIZES,
    dtype=FLOATS,
    stored=STORED,
    options=OPTIONS,
)
def test_prefill(
    isa: str,
    assert_close: Close,
    rows: list[tuple[int, int]],
    shape: tuple[int, ...],
    page_size: int,
    dtype: torch.dtype,
    stored: torch.dtype,
    options: dict[str, Any],
) -> None:
    batch, make = made([length for _, length in rows], shape, page_size, stored)
    sinks = make(shape[0]) * 2 if options["sinks"] else None
    cu_q = torch.tensor([0, *(count for count, _ in rows)]).cumsum(0).int()
    q = make(int(cu_q[-1]), shape[0], shape[2]).to(dtype)
    assert_agrees(assert_close, attention.prefill, batch, q, cu_q, **{**options, "sinks": sinks})


@pytest.mark.parametrize("queries", [1, 3])
def test_a_row_does_not_depend_on_its_batch(isa: str, queries: int) -> None:
    """Not in decode, not in prefill, where a row of few queries takes decode's way whatever it is with."""
    batch, make = made([50, 3, 700], (12, 2, 64, 64), 16, torch.bfloat16)
    q = make(3 * queries, 12, 64)
    caches = (batch.k_cache, batch.v_cache)
    together = attention.decode(q, *caches, batch.tables, batch.lengths, 0.2, impl="native")
    for row in range(3):
        one, mine = slice(row, row + 1), slice(row * queries, (row + 1) * queries)
        rest = (batch.tables[one], batch.lengths[one], 0.2)
        assert torch.equal(attention.decode(q[mine], *caches, *rest, impl="native"), together[mine])
    long, cu_q = torch.cat((q[:queries], make(40, 12, 64))), torch.tensor([0, queries, queries + 40]).int()
    rest = (batch.tables[[0, 2]], batch.lengths[[0, 2]], 0.2)
    mixed = attention.prefill(long, *caches, cu_q, *rest, impl="native")
    assert torch.equal(mixed[:queries], together[:queries])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_apart(isa: str, assert_close: Close, dtype: torch.dtype) -> None:
    """One tensor for both caches, keys and values page by page."""
    batch, make = made([90, 17, 40], (8, 2, 32, 32), 16, dtype)
    q, both = make(3, 8, 32), torch.stack((batch.k_cache, batch.v_cache), 1)
    want = attention.decode(q, batch.k_cache, batch.v_cache, batch.tables, batch.lengths, 0.3, impl="reference")
    assert_close(attention.decode(q, both[:, 0], both[:, 1], batch.tables, batch.lengths, 0.3, impl="native"), want)


@pytest.mark.parametrize("call", ["decode", "prefill"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tolerance_sees_mistakes(native: None, dtype: torch.dtype, call: str) -> None:
    """What a broken kernel would give is outside of the tolerance."""
    batch, make = made([75], (8, 2, 32, 32), 16, torch.bfloat16)
    queries = 3 if call == "decode" else 10
    q, sinks, cu_q = make(queries, 8, 32).to(dtype), make(8), torch.tensor([0, queries], dtype=torch.int32)

    def attend(tables: Tensor = batch.tables, lengths: Tensor = batch.lengths, **options: Any) -> Tensor:
        options = {"window": 40, "soft_cap": 2.0, "sinks": sinks, "impl": "native", **options}
        scale = options.pop("scale", 0.5)
        place = () if call == "decode" else (cu_q,)
        function: Callable[..., Tensor] = getattr(attention, call)
        return function(q, batch.k_cache, batch.v_cache, *place, tables, lengths, scale, **options)

    want = attend()
    shifted, dropped = batch.tables.clone(), want.clone()
    shifted[0, 3] = shifted[0, 2]
    dropped[:, 32:64] = 0
    mistakes = {
        "page shifted": attend(shifted),
        "head dropped": dropped,
        "heads of the cache swapped": want.view(queries, 2, -1).flip(1).flatten(1),
        "last key missing": attend(lengths=batch.lengths - 1, window=39),
        "window one wider": attend(window=41),
        "window one narrower": attend(window=39),
        "sinks ignored": attend(sinks=None),
        "soft cap ignored": attend(soft_cap=None),
        "wrong scale": attend(scale=0.53),
        "all zero": torch.zeros_like(want),
    }
    for name, wrong in mistakes.items():
        assert checking.difference(wrong, want) > 2 * checking.TOLERANCE[dtype], f"{name} passes"


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_parts_merge_to_the_whole(assert_close: Close, impl: str, request: pytest.FixtureRequest) -> None:
    """Keys cut at a page: a prefix and the rest, the sink counted in one of them; one row's prefix is empty."""
    if impl == "native":
        request.getfixturevalue("native")
    batch, make = made([90, 20], (8, 2, 32, 32), 16, torch.float32)
    q, sinks = make(2, 8, 32), make(8)
    caches = (batch.k_cache, batch.v_cache)
    want, want_lse = attention.decode(
        q, *caches, batch.tables, batch.lengths, 0.3, sinks=sinks, return_lse=True, impl=impl
    )
    cuts = torch.tensor([48, 0], dtype=torch.int32)
    rest = torch.stack((batch.tables[0].roll(-3), batch.tables[1]))
    parts = [
        attention.decode(q, *caches, batch.tables, cuts, 0.3, return_lse=True, impl=impl),
        attention.decode(q, *caches, rest, batch.lengths - cuts, 0.3, sinks=sinks, return_lse=True, impl=impl),
    ]
    outs, lses = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    have, lse = attention.merge(outs, lses, impl=impl)
    assert_close(have, want)
    assert_close(lse, want_lse)
    assert checking.difference(attention.merge(outs, lses * 1.1)[0], want) > 2 * checking.TOLERANCE[torch.float32]


@given(
    tokens=st.sampled_from([0, 1, 5, 70]),
    shape=st.sampled_from([(2, 24, 40), (1, 17, 17), (8, 64, 64)]),
    page_size=PAGE_SIZES,
    dtype=FLOATS,
    stored=STORED,
)
def test_write_kv(
    isa: str, tokens: int, shape: tuple[int, int, int], page_size: int, dtype: torch.dtype, stored: torch.dtype
) -> None:
    heads, d, v = shape
    make = Maker(dtype, tokens, torch.device("cpu"))
    joint = make(tokens, 3 * heads, d)
    slots = make.shuffled((tokens // page_size + 2) * page_size)[:tokens]
    slots[::3] = -1
    written = []
    values = make(tokens, heads, v)
    for impl in ("native", "reference"):
        caches = [torch.zeros(tokens // page_size + 2, page_size, heads, width, dtype=stored) for width in (d, v)]
        kv_cache.write_kv(joint[:, heads : 2 * heads], values, slots, *caches, k_scale=0.7, impl=impl)
        written.append(caches)
    for mine, theirs in zip(*written, strict=True):
        assert torch.equal(mine.float(), theirs.float())
    if tokens > 1:
        token = int((slots >= 0).nonzero()[0])
        entry = written[0][1].flatten(0, 1)[slots[token]]
        assert torch.equal(entry.float(), values[token].to(stored).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_writes_round_as_torch_does(isa: str, dtype: torch.dtype) -> None:
    """All of bf16's numbers and, in fp32, those between: ties, subnormals, what is cut off at 448, NaN."""
    codes = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    x = codes.to(dtype) if dtype == torch.bfloat16 else torch.cat((codes.float(), codes.float() * 1.001))
    k, caches = x.view(-1, 1, 256), [torch.zeros(x.numel() // 256, 1, 1, 256).to(torch.float8_e4m3fn) for _ in "kv"]
    kv_cache.write_kv(k, k, torch.arange(k.shape[0]), *caches, impl="native")
    want = x.float().clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    for cache in caches:
        have = cache.view(torch.uint8).flatten()
        assert torch.equal(have, torch.where(x.isnan(), have, want))
        assert cache.float().flatten()[x.isnan()].isnan().all()


@pytest.mark.parametrize("call", ["decode", "prefill"])
def test_every_fp8_code_is_read(isa: str, call: str) -> None:
    """One key a row, so the output is its values, and the log-sum-exp one of its key's numbers."""
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    v_cache, k_cache = codes.view(8, 1, 1, 32), codes.view(8, 1, 1, 32)[..., :20].contiguous()
    tables, lengths = torch.arange(8, dtype=torch.int32)[:, None], torch.ones(8, dtype=torch.int32)
    # In prefill a row of 9 queries takes the way of many; all but the last see nothing.
    count = 9 if call == "prefill" else 1
    for column in range(20):
        q = torch.zeros(8 * count, 1, 20)
        q[:, 0, column] = 2.0
        place = (torch.arange(9, dtype=torch.int32) * count,) if call == "prefill" else ()
        out, lse = getattr(attention, call)(
            q, k_cache, v_cache, *place, tables, lengths, 0.5, v_scale=2.0, return_lse=True, impl="native"
        )
        out, lse, key = out[count - 1 :: count], lse[count - 1 :: count, 0], k_cache.float()[:, 0, 0]
        bad = key.isnan().any(1)
        torch.testing.assert_close(lse[~bad], key[~bad, column], rtol=1e-6, atol=1e-6)
        assert lse[bad].isnan().all()
        want = v_cache.float()[:, 0, 0] * 2
        assert torch.equal(out[~bad].nan_to_num(nan=-1e9), want[~bad].nan_to_num(nan=-1e9))
