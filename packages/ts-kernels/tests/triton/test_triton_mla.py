"""Latent attention in Triton against the reference: in the interpreter, or on a GPU where there is one."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import checking, mla

plan = importlib.import_module("ts_kernels.ops.mla.triton.plan")
chunks = importlib.import_module("ts_kernels.ops.mla.triton.prefill")

FP8 = torch.float8_e4m3fn
# bf16 here rounds the absorbed queries, the weights of the softmax and the mean of the latents too, where the reference
# rounds once, at the end.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
Close = Callable[..., None]


@dataclass
class Batch:
    """Rows over one poisoned cache with shuffled pages and tables whose unused entries are out of range."""

    cache: Tensor
    tables: Tensor
    lengths: Tensor
    weight: mla.KvBWeight
    cache_scale: Tensor | None
    generator: torch.Generator

    def queries(self, count: int, dtype: torch.dtype) -> Tensor:
        width = self.weight.nope + self.cache.shape[2] - self.weight.latent
        return torch.randn(count, self.weight.heads, width, generator=self.generator).to(self.cache.device, dtype)


def make(
    device: torch.device,
    lengths: list[int],
    sizes: tuple[int, ...] = (4, 32, 16, 32, 64),
    page_size: int = 16,
    stored: torch.dtype = torch.bfloat16,
) -> Batch:
    heads, nope, rope, v, latent = sizes
    generator = torch.Generator().manual_seed(sum(lengths))
    needed = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(needed) + 3, generator=generator).tolist()
    cache = torch.full((len(order), page_size, latent + rope), torch.nan)
    tables = torch.full((len(lengths), max([*needed, 1]) + 1), 2**30, dtype=torch.int32)
    for row, (length, count) in enumerate(zip(lengths, needed, strict=True)):
        mine = [order.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(mine, dtype=torch.int32)
        for i in range(length):
            cache[mine[i // page_size], i % page_size] = torch.randn(latent + rope, generator=generator)
    kv_b = torch.randn(heads * (nope + v), latent, generator=generator) * latent**-0.5
    weight = mla.prepare_kv_b(kv_b.bfloat16().to(device), heads, nope, v, keep_source=True)
    scale = torch.tensor([0.37], device=device) if stored == FP8 else None
    counts = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Batch(cache.to(stored).to(device), tables.to(device), counts, weight, scale, generator)


def assert_near(have: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert checking.difference(have, want) <= TOLERANCE[dtype]


MINIATURE, AWKWARD = (4, 32, 16, 32, 64), (3, 24, 6, 20, 40)


@pytest.mark.parametrize(
    ("dtype", "stored", "sizes", "q_len", "page_size"),
    [
        (torch.float32, torch.float32, MINIATURE, 1, 16),
        (torch.float32, torch.bfloat16, AWKWARD, 3, 4),
        (torch.float32, FP8, MINIATURE, 2, 64),
        (torch.bfloat16, torch.float32, AWKWARD, 1, 4),
        (torch.bfloat16, torch.bfloat16, MINIATURE, 3, 64),
        (torch.bfloat16, FP8, AWKWARD, 1, 16),
        (torch.float32, torch.bfloat16, (17, 8, 4, 8, 16), 2, 16),  # rows that need several blocks
    ],
)
def test_decode(
    device: torch.device,
    dtype: torch.dtype,
    stored: torch.dtype,
    sizes: tuple[int, ...],
    q_len: int,
    page_size: int,
) -> None:
    batch = make(device, [50, 0, 133, 3], sizes, page_size, stored)
    q = batch.queries(4 * q_len, dtype)
    arguments = (q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17)
    options: dict[str, Any] = {"q_len": q_len, "cache_scale": batch.cache_scale, "return_lse": True}
    want, want_lse = mla.decode(*arguments, **options, impl="reference")
    have, lse = mla.decode(*arguments, **options, impl="triton")
    assert_near(have, want, dtype)
    assert torch.equal(lse.isinf(), want_lse.isinf())
    torch.testing.assert_close(lse, want_lse, atol=2e-2 if dtype == torch.bfloat16 else 2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_absorbed_takes_spaced_queries(device: torch.device, dtype: torch.dtype) -> None:
    batch = make(device, [40, 90], (6, 32, 16, 32, 64))
    q_latent = (torch.randn(6, 8, 64, generator=batch.generator) * 0.3).to(device, dtype).transpose(0, 1)
    q_rope = batch.queries(8, dtype)[..., 32:]
    arguments = (q_latent, q_rope, batch.cache, batch.tables, batch.lengths, 0.2)
    want = mla.decode_absorbed(*arguments, q_len=4, impl="reference")
    assert_near(mla.decode_absorbed(*arguments, q_len=4, impl="triton"), want, dtype)


def test_decode_at_the_sizes_of_kimi(device: torch.device) -> None:
    """16 heads, latent 512 + rope 64, pages of 64."""
    batch = make(device, [130], (16, 128, 64, 128, 512), 64)
    q = batch.queries(2, torch.float32)
    arguments = (q, batch.cache, batch.weight, batch.tables, batch.lengths, 192**-0.5)
    assert_near(
        mla.decode(*arguments, q_len=2, impl="triton"), mla.decode(*arguments, q_len=2, impl="reference"), q.dtype
    )


@pytest.mark.parametrize("slots", [1, 7, 40])
def test_any_number_of_splits_gives_the_same(device: torch.device, monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    """From one program a row to more programs than tiles; rows of very different lengths."""
    monkeypatch.setattr(plan, "multiprocessors", lambda device: slots)
    batch = make(device, [217, 1, 0, 40])
    q = batch.queries(4, torch.float32)
    arguments = (q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17)
    want, want_lse = mla.decode(*arguments, return_lse=True, impl="reference")
    have, lse = mla.decode(*arguments, return_lse=True, impl="triton")
    assert_near(have, want, q.dtype)
    torch.testing.assert_close(lse, want_lse, atol=2e-5, rtol=0)


def test_the_grid_depends_on_shapes_alone_and_suffices() -> None:
    """Whatever the lengths are, the rows' splits fit the launch: what a captured graph relies on."""
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 16, 64, 300):
        for blocks in (1, 4):
            grid, share = plan.programs(batch, blocks, torch.device("cpu"))
            for most in (1, 70, 80_000):
                tiles = -(-torch.randint(most + 1, (batch,), generator=generator) // 64)
                per_split = max(-(-int(tiles.sum()) // share), 2)
                assert int((-(-tiles // per_split)).sum()) <= grid


@pytest.mark.parametrize(
    ("chunk", "dtype", "stored", "sizes", "page_size"),
    [
        (16384, torch.float32, torch.bfloat16, MINIATURE, 16),
        (48, torch.float32, FP8, AWKWARD, 4),
        (48, torch.bfloat16, torch.bfloat16, MINIATURE, 64),
        (16384, torch.bfloat16, FP8, AWKWARD, 16),
    ],
)
def test_prefill(
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    dtype: torch.dtype,
    stored: torch.dtype,
    sizes: tuple[int, ...],
    page_size: int,
) -> None:
    """Rows of uneven length, first chunk and long prefix, cut into chunks that end within rows and tiles."""
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    rows = [(0, 5), (1, 1), (1, 40), (17, 17), (20, 90)]
    counts, lengths = [count for count, _ in rows], [length for _, length in rows]
    batch = make(device, lengths, sizes, page_size, stored)
    q = batch.queries(sum(counts), dtype)
    cu_q = torch.tensor([0, *counts], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    arguments = (q, batch.cache, batch.weight, cu_q, batch.tables, batch.lengths, 0.2)
    want = mla.prefill(*arguments, cache_scale=batch.cache_scale, impl="reference")
    known = lengths if chunk == 48 else None
    assert_near(mla.prefill(*arguments, cache_scale=batch.cache_scale, host_seq_lens=known, impl="triton"), want, dtype)


def test_empty_batches(device: torch.device) -> None:
    batch = make(device, [])
    q = batch.queries(0, torch.float32)
    arguments = (batch.cache, batch.weight)
    assert mla.decode(q, *arguments, batch.tables, batch.lengths, 1.0, impl="triton").shape == (0, 128)
    cu_q = torch.zeros(1, dtype=torch.int32, device=device)
    assert mla.prefill(q, *arguments, cu_q, batch.tables, batch.lengths, 1.0, impl="triton").shape == (0, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tolerance_sees_mistakes(device: torch.device, dtype: torch.dtype) -> None:
    """What a broken kernel would give is outside of the tolerance."""
    batch = make(device, [70], stored=FP8)
    q = batch.queries(2, dtype)

    def attend(q: Tensor, tables: Tensor, lengths: Tensor, scale: float = 0.17, factor: float = 1.0) -> Tensor:
        assert batch.cache_scale is not None
        options: dict[str, Any] = {"q_len": 2, "cache_scale": batch.cache_scale * factor, "impl": "triton"}
        return mla.decode(q, batch.cache, batch.weight, tables, lengths, scale, **options)

    want = mla.decode(q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17, q_len=2,
                      cache_scale=batch.cache_scale, impl="reference")  # fmt: skip
    assert_near(attend(q, batch.tables, batch.lengths), want, dtype)
    shifted, dropped = batch.tables.clone(), want.clone()
    shifted[0, 1] = shifted[0, 0]
    dropped[:, 32:64] = 0
    mistakes = {
        "page read twice": attend(q, shifted, batch.lengths),
        "head dropped": dropped,
        "heads swapped": attend(q.flip(1), batch.tables, batch.lengths),
        "last key missing": attend(q, batch.tables, batch.lengths - 1),
        "queries swapped": attend(q.flip(0), batch.tables, batch.lengths),
        "scale of the scores off by 6 percent": attend(q, batch.tables, batch.lengths, 0.17 * 1.06),
        "scale of the cache off by 6 percent": attend(q, batch.tables, batch.lengths, factor=1.06),
        "all zero": torch.zeros_like(want),
    }
    for name, wrong in mistakes.items():
        assert checking.difference(wrong, want) > TOLERANCE[dtype], f"{name} passes"


def test_splits_merged_wrongly_show(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits weighted alike, or one of them left out, are no rounding error."""
    decode = importlib.import_module("ts_kernels.ops.mla.triton.decode")
    batch = make(device, [217])
    q = batch.queries(1, torch.float32)
    arguments = (q, batch.cache, batch.weight, batch.tables, batch.lengths, 0.17)
    want = mla.decode(*arguments, impl="reference")
    kernel = decode.merge_kernel

    class Broken:
        """The merge, of sums that ``spoil`` has changed."""

        def __init__(self, spoil: Callable[[Tensor], None]) -> None:
            self.spoil = spoil

        def __getitem__(self, grid: object) -> Callable[..., object]:
            def launch(partial: Tensor, sums: Tensor, *others: object, **options: object) -> object:
                self.spoil(sums)
                return kernel[grid](partial, sums, *others, **options)

            return launch

    mistakes: tuple[Callable[[Tensor], None], ...] = (
        lambda sums: sums.zero_().sum(),  # every split the same weight
        lambda sums: sums[0].fill_(-torch.inf).sum(),  # the first one dropped
    )
    assert_near(mla.decode(*arguments, impl="triton"), want, q.dtype)
    for spoil in mistakes:
        monkeypatch.setattr(decode, "merge_kernel", Broken(spoil))
        assert checking.difference(mla.decode(*arguments, impl="triton"), want) > 100 * TOLERANCE[q.dtype]


def test_prefill_mistakes_show(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask off by one, a lost chunk."""
    batch = make(device, [90])
    q, cu_q = batch.queries(20, torch.bfloat16), torch.tensor([0, 20], dtype=torch.int32, device=device)
    arguments = (q, batch.cache, batch.weight, cu_q, batch.tables)
    want = mla.prefill(*arguments, batch.lengths, 0.17, impl="reference")
    assert_near(mla.prefill(*arguments, batch.lengths, 0.17, impl="triton"), want, q.dtype)
    off_by_one = mla.prefill(*arguments, batch.lengths - 1, 0.17, impl="triton")
    assert checking.difference(off_by_one, want) > TOLERANCE[q.dtype]
    monkeypatch.setattr(chunks, "CHUNK", 32)
    assert_near(mla.prefill(*arguments, batch.lengths, 0.17, impl="triton"), want, q.dtype)
    attend = chunks._attend
    lost: Callable[..., None] = lambda *a: None if a[6][0] == 32 else attend(*a)  # noqa: E731
    monkeypatch.setattr(chunks, "_attend", lost)
    assert checking.difference(mla.prefill(*arguments, batch.lengths, 0.17, impl="triton"), want) > TOLERANCE[q.dtype]


def test_a_prefill_of_very_many_tokens_fits_a_grid(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks of queries than a grid's second and third axis have room for. Nothing is computed."""
    grids: list[tuple[int, ...]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            grids.append(grid)
            return lambda *arguments, **settings: None

    for kernel in ("attend_kernel", "gather_kernel"):
        monkeypatch.setattr(chunks, kernel, Recorder())
    tokens = 128 * 65536
    q = torch.zeros(1, 1, 4, device=device).expand(tokens, 1, 4)
    weight = mla.prepare_kv_b(torch.zeros(4, 2, device=device), heads=1, nope=2, v=2, keep_source=True)
    cu_q, table = (torch.tensor(n, dtype=torch.int32, device=device) for n in ([0, tokens], [[0]]))
    mla.prefill(q, torch.zeros(1, 16, 4, device=device), weight, cu_q, table, cu_q[1:], 1.0, impl="triton")
    assert max(grid[0] for grid in grids) > 65536
    assert all(size <= 65535 for grid in grids for size in grid[1:])
