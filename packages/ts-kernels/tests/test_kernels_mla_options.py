"""mla.decode: several queries a row, log-sum-exp, absorbed queries, FP8 caches, against attention written out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_kernels import ContractError, checking, mla, override, settings
from ts_kernels.selection import OPERATIONS

FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
STORED = st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn])
# Of heads x queries and of widths: whole vectors, pairs of them, and remainders of both.
SIZES = st.sampled_from(
    [
        (4, 32, 16, 32, 64),
        (1, 8, 2, 8, 16),
        (3, 24, 6, 20, 40),
        (16, 16, 8, 16, 32),
        (9, 8, 5, 6, 37),
        (24, 8, 3, 8, 50),
    ]
)
FP8 = torch.float8_e4m3fn
Close = Callable[..., None]


@dataclass
class Rows:
    """Rows over one poisoned cache with shuffled pages; ``entries`` are the numbers that the cache stands for."""

    cache: Tensor
    tables: Tensor
    lengths: Tensor
    entries: list[Tensor]
    cache_scale: Tensor | None
    generator: torch.Generator

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def rows_of(lengths: list[int], width: int, page_size: int, stored: torch.dtype) -> Rows:
    generator = torch.Generator().manual_seed(sum(lengths))
    scale = torch.tensor([0.37]) if stored == FP8 else None
    needed = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(needed) + 3, generator=generator).tolist()
    cache = torch.full((len(order), page_size, width), torch.nan)
    tables, entries = torch.full((len(lengths), max([*needed, 1]) + 1), -7, dtype=torch.int32), []
    for row, (length, count) in enumerate(zip(lengths, needed, strict=True)):
        mine = [order.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(mine, dtype=torch.int32)
        keys = torch.randn(length, width, generator=generator).to(stored).float()
        for i in range(length):
            cache[mine[i // page_size], i % page_size] = keys[i]
        entries.append(keys if scale is None else keys * scale)
    return Rows(cache.to(stored), tables, torch.tensor(lengths, dtype=torch.int32), entries, scale, generator)


def written_out(q: Tensor, rows: Rows, latent: int, scale: float, q_len: int) -> tuple[Tensor, Tensor]:
    """(means of latents, log-sum-exps) in fp64, one query and head at a time."""
    means, sums = torch.zeros(*q.shape[:2], latent).double(), torch.full(q.shape[:2], -torch.inf).double()
    for token, query in enumerate(q.double()):
        entries = rows.entries[token // q_len].double()
        seen = entries[: len(entries) - q_len + token % q_len + 1] if len(entries) else entries
        for head in range(q.shape[1]):
            if len(seen):
                scores = seen @ query[head] * scale
                means[token, head] = torch.softmax(scores, 0) @ seen[:, :latent]
                sums[token, head] = scores.logsumexp(0)
    return means, sums


@given(
    lengths=st.lists(st.sampled_from([0, 8, 15, 16, 17, 31, 95, 96, 100, 333, 385, 520]), max_size=4),
    sizes=SIZES,
    page_size=st.sampled_from([1, 4, 16, 64]),
    q_len=st.sampled_from([1, 2, 3, 4, 8]),
    dtype=FLOATS,
    stored=STORED,
)
def test_decode(
    isa: str,
    assert_close: Close,
    lengths: list[int],
    sizes: tuple[int, ...],
    page_size: int,
    q_len: int,
    dtype: torch.dtype,
    stored: torch.dtype,
) -> None:
    heads, nope, rope, v, latent = sizes
    rows = rows_of(lengths, latent + rope, page_size, stored)
    kv_b = rows.randn(heads * (nope + v), latent) * latent**-0.5
    weight = mla.prepare_kv_b(kv_b, heads, nope, v, keep_source=True)
    q = rows.randn(len(lengths) * q_len, heads, nope + rope).to(dtype)
    arguments = (q, rows.cache, weight, rows.tables, rows.lengths, 0.17)
    options = {"q_len": q_len, "cache_scale": rows.cache_scale}
    have, lse = mla.decode(*arguments, **options, return_lse=True, impl="native")
    want, want_lse = mla.decode(*arguments, **options, return_lse=True, impl="reference")
    assert_close(have, want)
    torch.testing.assert_close(lse, want_lse, atol=2e-5, rtol=2e-5)
    assert torch.equal(mla.decode(*arguments, **options, impl="native"), have)

    up = kv_b.double().view(heads, nope + v, latent)
    absorbed = torch.einsum("thn,hnl->thl", q[..., :nope].double(), up[:, :nope])
    mean, sums = written_out(torch.cat((absorbed, q[..., nope:].double()), -1), rows, latent, 0.17, q_len)
    assert_close(have.double(), torch.einsum("thl,hvl->thv", mean, up[:, nope:]).flatten(1), dtype)
    torch.testing.assert_close(lse.double(), sums, atol=2e-5, rtol=2e-5)


@given(
    lengths=st.lists(st.sampled_from([0, 8, 17, 97, 333, 387]), max_size=4),
    sizes=SIZES,
    page_size=st.sampled_from([1, 16]),
    q_len=st.sampled_from([1, 3, 8]),
    dtype=FLOATS,
    stored=STORED,
)
def test_decode_absorbed(
    isa: str,
    assert_close: Close,
    lengths: list[int],
    sizes: tuple[int, ...],
    page_size: int,
    q_len: int,
    dtype: torch.dtype,
    stored: torch.dtype,
) -> None:
    heads, nope, rope, _, latent = sizes
    rows = rows_of(lengths, latent + rope, page_size, stored)
    tokens = len(lengths) * q_len
    q_latent = (rows.randn(heads, tokens, latent) * 0.3).to(dtype).transpose(0, 1)  # as a batched product gives it
    q_rope = rows.randn(tokens, heads, nope + rope).to(dtype)[..., nope:]
    arguments = (q_latent, q_rope, rows.cache, rows.tables, rows.lengths, 0.2)
    options = {"q_len": q_len, "cache_scale": rows.cache_scale}
    mean, sums = written_out(torch.cat((q_latent, q_rope), -1), rows, latent, 0.2, q_len)
    for impl in ("native", "reference"):
        have, lse = mla.decode_absorbed(*arguments, **options, return_lse=True, impl=impl)
        assert_close(have.double(), mean, dtype)
        torch.testing.assert_close(lse.double(), sums, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_direct_call_gives_the_same(native: None, dtype: torch.dtype, stored: torch.dtype) -> None:
    """With padding, several queries and rows of a larger tensor; what it does not take goes the longer way."""
    rows = rows_of([97, 0, 533], 80, 16, stored)
    q_latent, q_rope = rows.randn(9, 4, 64).to(dtype), rows.randn(9, 4, 16).to(dtype)
    arguments = (rows.cache, rows.tables, rows.lengths, 0.2)
    want = mla.decode_absorbed(q_latent, q_rope, *arguments, q_len=3, impl="native")
    have = mla.decode_absorbed(q_latent, q_rope, *arguments, q_len=3)
    direct = OPERATIONS["mla.decode_absorbed"].direct
    assert torch.equal(have, want)
    assert torch.equal(direct(q_latent, q_rope, *arguments, 3), want)
    apart = rows.randn(9, 4, 80).to(dtype)
    apart[..., 64:] = q_rope
    assert direct(q_latent, apart[..., 64:], *arguments, 3) is NotImplemented, "heads apart"
    assert torch.equal(mla.decode_absorbed(q_latent, apart[..., 64:], *arguments, q_len=3), want)
    assert direct(q_latent, q_rope[:6], *arguments, 3) is NotImplemented, "fewer tokens"
    assert direct(q_latent, q_rope, *arguments, 9) is NotImplemented, "more queries than a row may have"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, FP8])
def test_a_row_depends_on_itself_alone(isa: str, request: pytest.FixtureRequest, stored: torch.dtype) -> None:
    """Not on its batch, nor on threads; and a position not on the queries beside it, a task's end between them or not.

    Kimi K2.5's widths. Native tasks end at multiples of 192 keys.
    """
    _native = pytest.importorskip("ts_kernels._native")
    request.addfinalizer(partial(_native.set_threads, _native.threads()))
    lengths = [771, 385, 50, 1160]
    rows = rows_of(lengths, 576, 16, stored)
    q_latent, q_rope = rows.randn(16, 16, 512) * 0.05, rows.randn(16, 16, 64) * 0.05

    def decode(first: int, count: int, queries: int = 4, threads: int = 2, back: int = 0) -> list[Tensor]:
        """The last queries of `count` rows, or those that lie `back` positions before."""
        tokens = [row * 4 + 4 - back - queries + i for row in range(first, first + count) for i in range(queries)]
        _native.set_threads(threads)
        results = mla.decode_absorbed(
            q_latent[tokens], q_rope[tokens], rows.cache, rows.tables[first : first + count],
            rows.lengths[first : first + count] - back, 0.1, q_len=queries, cache_scale=rows.cache_scale,
            return_lse=True, impl="native",
        )  # fmt: skip
        return [result.view(count, queries, *result.shape[1:]) for result in results]

    whole = decode(0, 4)
    for row in range(4):
        for have, want in zip(decode(row, 1, threads=1), whole, strict=True):
            assert torch.equal(have[0], want[row])
        for back in range(4):
            for have, want in zip(decode(row, 1, queries=1, back=back), whole, strict=True):
                assert torch.equal(have[0, 0], want[row, 3 - back])
    mean, sums = written_out(torch.cat((q_latent, q_rope), -1), rows, 512, 0.1, 4)
    assert checking.difference(whole[0].flatten(0, 1).double(), mean) <= checking.TOLERANCE[torch.float32]
    torch.testing.assert_close(whole[1].flatten(0, 1).double(), sums, atol=2e-5, rtol=2e-5)


def test_prefill_from_fp8(isa: str, assert_close: Close) -> None:
    rows = rows_of([40, 333], 80, 16, FP8)
    kv_b = rows.randn(4 * 64, 64) / 8
    weight = mla.prepare_kv_b(kv_b, 4, 32, 32, keep_source=True)
    q, cu_q = rows.randn(75, 4, 48), torch.tensor([0, 5, 75], dtype=torch.int32)
    arguments = (q, rows.cache, weight, cu_q, rows.tables, rows.lengths, 0.17)
    have = mla.prefill(*arguments, cache_scale=rows.cache_scale, host_seq_lens=[40, 333], impl="native")
    assert_close(have, mla.prefill(*arguments, cache_scale=rows.cache_scale, impl="reference"))
    tail = mla.decode(q[-4:], rows.cache, weight, rows.tables[1:], rows.lengths[1:], 0.17, q_len=4,
                      cache_scale=rows.cache_scale, impl="native")  # fmt: skip
    assert_close(tail, have[-4:])
    assert checking.difference(mla.prefill(*arguments, impl="native"), have) > 0.1, "the scale does nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tolerance_sees_mistakes(native: None, dtype: torch.dtype) -> None:
    """Mistakes that several queries, a scale and a split make possible are outside of the tolerance."""
    rows = rows_of([533], 80, 16, FP8)
    weight = mla.prepare_kv_b(rows.randn(4 * 64, 64) / 8, 4, 32, 32, keep_source=True)
    q = rows.randn(4, 4, 48).to(dtype)

    def attend(q: Tensor, lengths: Tensor, factor: float = 1.0) -> Tensor:
        return mla.decode(q, rows.cache, weight, rows.tables, lengths, 0.17, q_len=4,
                          cache_scale=rows.cache_scale * factor, impl="native")  # fmt: skip

    want = attend(q, rows.lengths)
    alone = torch.cat([mla.decode(q[i:i + 1], rows.cache, weight, rows.tables, rows.lengths, 0.17,
                                  cache_scale=rows.cache_scale, impl="native") for i in range(4)])  # fmt: skip
    mistakes = {
        "queries see the future": alone[:3],
        "a key too few": attend(q, rows.lengths - 1)[:3],
        "queries swapped": attend(q.flip(0), rows.lengths).flip(0)[:3],
        "cache scale off by 6 percent": attend(q, rows.lengths, 1.06)[:3],
    }
    for name, wrong in mistakes.items():
        assert checking.difference(wrong, want[:3]) > 2 * checking.TOLERANCE[dtype], f"{name} passes"
    assert torch.equal(alone[3], want[3]), "the last query sees what a single one does"


def test_every_byte_of_e4m3_is_read_as_torch_reads_it(isa: str) -> None:
    """One key a row: its latent is the result."""
    cache = torch.arange(256, dtype=torch.uint8).view(8, 1, 32).view(FP8)
    tables, lengths = torch.arange(8, dtype=torch.int32)[:, None], torch.ones(8, dtype=torch.int32)
    finite = torch.where(cache.float().isnan(), 0.0, cache.float()).to(FP8)
    q = torch.zeros(8, 1, 28), torch.zeros(8, 1, 4)
    have = mla.decode_absorbed(*q, finite, tables, lengths, 1.0, impl="native")
    assert torch.equal(have[:, 0], finite.float()[:, 0, :28])
    assert mla.decode_absorbed(*q, cache, tables, lengths, 1.0, impl="native")[3].isnan().any(), "a NaN is lost"


def call(**changes: object) -> object:
    rows = rows_of([9, 0], 80, 4, torch.bfloat16)
    good: dict[str, object] = {
        "q_latent": torch.zeros(4, 4, 64), "q_rope": torch.zeros(4, 4, 16), "cache": rows.cache,
        "block_tables": rows.tables, "seq_lens": rows.lengths, "scale": 1.0, "q_len": 2,
    }  # fmt: skip
    return mla.decode_absorbed(**{**good, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_len": 0}, "q_len must be from 1 to 8, got 0"),
        ({"q_len": 9}, "q_len must be from 1 to 8, got 9"),
        ({"q_len": 3}, r"q_latent must be a multiple of q_len = 3 tokens"),
        ({"q_latent": torch.zeros(())}, r"q_latent must be \[T, H, width\]"),
        ({"q_rope": torch.zeros(4, 3, 16)}, r"q_rope must be \[4, 4, R\]"),
        ({"q_rope": torch.zeros(4, 4, 15)}, r"cache must be \[pages, page_size, 79\]"),
        ({"q_rope": torch.zeros(4, 4, 16).bfloat16()}, "q_rope must be float32"),
        ({"block_tables": torch.zeros(1, 3, dtype=torch.int32)}, r"block_tables must be \[2, max_pages\]"),
        ({"cache_scale": torch.ones(1)}, "cache_scale must be None unless the cache is float8_e4m3fn"),
        ({"cache": torch.zeros(5, 4, 80).to(FP8), "cache_scale": torch.ones(2)}, r"cache_scale must be \[1\]"),
        ({"cache": torch.zeros(5, 4, 80).to(FP8), "cache_scale": torch.ones(1).half()}, "cache_scale must be float32"),
    ],
)
def test_wrong_argument(changes: dict[str, object], message: str) -> None:
    call()
    with pytest.raises(ContractError, match=message):
        call(**changes)


def test_wrong_q_len_of_decode() -> None:
    weight = mla.prepare_kv_b(torch.zeros(4 * 64, 64), 4, 32, 32)
    rows = rows_of([9, 0], 80, 4, torch.bfloat16)
    nine = torch.zeros(18, 4, 48)
    mla.decode(nine[:2], rows.cache, weight, rows.tables, rows.lengths, 1.0)  # and the next one may be direct
    with pytest.raises(ContractError, match="q_len must be from 1 to 8, got 9"):
        mla.decode(nine, rows.cache, weight, rows.tables, rows.lengths, 1.0, q_len=9)
    with pytest.raises(ContractError, match="q must be a multiple of q_len = 2 tokens"):
        mla.decode(torch.zeros(3, 4, 48), rows.cache, weight, rows.tables, rows.lengths, 1.0, q_len=2)
    with pytest.raises(ContractError, match=r"seq_lens must be \[1\]"):
        mla.decode(torch.zeros(2, 4, 48), rows.cache, weight, rows.tables, rows.lengths, 1.0, q_len=2)
    cu_q = torch.tensor([0, 1, 1], dtype=torch.int32)
    arguments = (torch.zeros(1, 4, 48), rows.cache, weight, cu_q, rows.tables, rows.lengths, 1.0)
    with pytest.raises(ContractError, match="host_seq_lens must be 2 lengths"):
        mla.prefill(*arguments, cache_scale=None, host_seq_lens=[9], impl="reference")


def test_values_in_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_current", [settings.Settings(debug=True)])
    for operation in OPERATIONS.values():
        operation.forget()
    with pytest.raises(ContractError, match=r"seq_lens\[0\] must be 0 or at least q_len = 2, got 1"):
        call(seq_lens=torch.tensor([1, 0], dtype=torch.int32))
    fp8 = torch.zeros(8, 4, 80).to(FP8)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ContractError, match="cache_scale must be positive and finite"):
            call(cache=fp8, cache_scale=torch.tensor([wrong]))
    monkeypatch.undo()
    for operation in OPERATIONS.values():
        operation.forget()


def test_native_refuses_fewer_keys_than_queries(native: None) -> None:
    with (
        override("native"),
        pytest.raises(
            ContractError, match=r"mla.decode_absorbed: seq_lens must be from 2 \(the row's queries\) to .*, got 1"
        ),
    ):
        call(seq_lens=torch.tensor([1, 0], dtype=torch.int32))
