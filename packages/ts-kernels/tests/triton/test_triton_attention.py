"""Paged attention in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import attention, checking, kv_cache
from ts_kernels.cases.attention import PagedBatch, paged_batch
from ts_kernels.cases.common import Maker

Close = Callable[..., None]
FP8 = torch.float8_e4m3fn
# (H, H_kv, D, V): GPT-OSS, Llama and MiniMax's groups on narrow heads; no power of two anywhere; one head for all
SHAPES = [(16, 2, 16, 16), (8, 2, 32, 32), (12, 2, 32, 16), (3, 3, 20, 12), (5, 1, 24, 40)]
OPTIONS = [{}, {"window": 37}, {"sinks": True}, {"soft_cap": 3.0}, {"window": 5, "sinks": True, "soft_cap": 2.0}]
EVERY_SHAPE = [(shape, queries, OPTIONS[-1]) for shape, queries in zip(SHAPES, (1, 3, 2, 7, 1), strict=True)]
EVERY_OPTION = [((6, 2, 16, 32), 4, options) for options in OPTIONS[:-1]]


def batch_of(
    lengths: list[int], shape: tuple[int, ...], page_size: int, stored: torch.dtype, device: torch.device
) -> tuple[PagedBatch, Maker]:
    make = Maker(torch.float32, 3, device)
    return paged_batch(lengths, shape[1], (shape[2], shape[3]), page_size, make, stored), make


def both(
    call: Callable[..., tuple[Tensor, Tensor]], batch: PagedBatch, make: Maker, heads: int, *place: Tensor, **options
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(Triton's result, the reference's)."""
    if options.pop("sinks", False):
        options["sinks"] = make(heads).float() * 2
    q, *more = place
    arguments = (q, batch.k_cache, batch.v_cache, *more, batch.tables, batch.lengths, 0.3)
    have, want = (call(*arguments, **options, return_lse=True, impl=impl) for impl in ("triton", "reference"))
    return have, want


@pytest.mark.parametrize(("shape", "queries", "options"), [*EVERY_SHAPE, *EVERY_OPTION])
def test_decode(
    device: torch.device, assert_close: Close, shape: tuple[int, ...], queries: int, options: dict[str, object]
) -> None:
    batch, make = batch_of([70, 0, 1, 300], shape, 16, torch.float32, device)
    have, want = both(attention.decode, batch, make, shape[0], make(4 * queries, shape[0], shape[2]), **options)
    for mine, theirs in zip(have, want, strict=True):
        assert_close(mine.nan_to_num(neginf=-9.0), theirs.nan_to_num(neginf=-9.0))
    assert not have[0][queries : 2 * queries].any()
    assert have[1][queries : 2 * queries].eq(-torch.inf).all()


@pytest.mark.parametrize(("shape", "queries", "options"), [*EVERY_SHAPE, *EVERY_OPTION])
def test_prefill(
    device: torch.device, assert_close: Close, shape: tuple[int, ...], queries: int, options: dict[str, object]
) -> None:
    batch, make = batch_of([70, 0, 33, 100, 41], shape, 16, torch.float32, device)
    counts = [50, 0, 0, queries, 41]
    cu_q = torch.tensor([0, *counts], device=device).cumsum(0).int()
    have, want = both(attention.prefill, batch, make, shape[0], make(sum(counts), shape[0], shape[2]), cu_q, **options)
    for mine, theirs in zip(have, want, strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("page_size", [1, 7, 64])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, FP8), (torch.float32, FP8)],
)
def test_formats(
    device: torch.device, assert_close: Close, dtype: torch.dtype, stored: torch.dtype, page_size: int
) -> None:
    shape = (6, 2, 16, 32)
    batch, make = batch_of([40, 9], shape, page_size, stored, device)
    scales = {"k_scale": 0.5, "v_scale": 2.0} if stored == FP8 else {}
    q, cu_q = make(27, 6, 16).to(dtype), torch.tensor([0, 18, 27], dtype=torch.int32, device=device)
    for call, place in ((attention.decode, (q[:6],)), (attention.prefill, (q, cu_q))):
        (have, lse), (want, want_lse) = both(call, batch, make, 6, *place, **scales)
        assert_close(have, want)
        assert_close(lse, want_lse, dtype)


def test_keys_split_over_many_programs(device: torch.device, assert_close: Close) -> None:
    """Long rows, cut by their own length: alone or in a batch, the same bits."""
    batch, make = batch_of([1500, 300], (4, 2, 16, 16), 16, torch.float32, device)
    q, sinks = make(4, 4, 16), make(4)
    for options in ({}, {"window": 700}):
        have, want = both(attention.decode, batch, make, 4, q, sinks=True, **options)
        assert_close(have[0], want[0])
        assert_close(have[1], want[1])
        arguments = (batch.k_cache, batch.v_cache, batch.tables[1:], batch.lengths[1:], 0.3)
        alone = attention.decode(q[2:], *arguments, sinks=sinks, impl="triton", **options)
        arguments = (batch.k_cache, batch.v_cache, batch.tables, batch.lengths, 0.3)
        assert torch.equal(alone, attention.decode(q, *arguments, sinks=sinks, impl="triton", **options)[2:])


def test_many_rows_of_a_head(device: torch.device, assert_close: Close) -> None:
    """More query rows a head of the cache than a program takes; tokens spaced; pages apart from each other."""
    batch, make = batch_of([90, 17], (20, 1, 16, 16), 16, torch.float32, device)
    both = torch.stack((batch.k_cache, batch.v_cache), 1)
    q = make(16, 50, 16)[:, 10:30]
    rest = (batch.tables, batch.lengths, 0.3)
    want = attention.decode(q, batch.k_cache, batch.v_cache, *rest, impl="reference")
    assert_close(attention.decode(q, both[:, 0], both[:, 1], *rest, impl="triton"), want)


def test_merge(device: torch.device, assert_close: Close) -> None:
    make = Maker(torch.float32, 1, device)
    outs, lses = make(21, 3, 4 * 24), make(21, 3, 4)
    lses[3, 1] = lses[:, 2, 3] = -torch.inf
    outs[3, 1] = torch.nan
    outs[:, 2, 3 * 24 :] = torch.nan
    have, want = (attention.merge(outs, lses, impl=impl) for impl in ("triton", "reference"))
    assert_close(have[0], want[0])
    assert_close(have[1].nan_to_num(neginf=0.0), want[1].nan_to_num(neginf=0.0))
    assert not have[0][2, 72:].any()
    assert have[1][2, 3] == -torch.inf


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, FP8])
def test_write_kv(device: torch.device, assert_close: Close, stored: torch.dtype) -> None:
    make = Maker(torch.float32, 1, device)
    k, v = make(5, 4, 24)[:, 1:3], make(5, 2, 40) * 400
    if stored == FP8:  # numbers that FP8 has, times the scale: rounding up to a power of two, the interpreter errs
        k, v = k.to(FP8).float() * 0.5, v.clamp(-448, 448).to(FP8).float() * 0.5
    slots = torch.tensor([7, -1, 30, 0, 13], device=device)
    written = []
    for impl in ("triton", "reference"):
        caches = [torch.zeros(4, 8, 2, width, device=device).to(stored) for width in (24, 40)]
        kv_cache.write_kv(k, v, slots, *caches, k_scale=0.5, v_scale=0.25, impl=impl)
        written.append(caches)
    for mine, theirs in zip(*written, strict=True):
        if stored == torch.bfloat16:  # which the interpreter cuts off instead of rounding
            assert_close(mine, theirs)
        else:
            assert torch.equal(mine.float(), theirs.float())


def test_tolerance_sees_mistakes(device: torch.device) -> None:
    """What a broken kernel would give is outside of the tolerance."""
    batch, make = batch_of([70], (8, 2, 16, 16), 16, torch.bfloat16, device)
    q, sinks = make(1, 8, 16), make(8) + 3
    fixed = (batch.k_cache, batch.v_cache)

    def attend(tables: Tensor = batch.tables, lengths: Tensor = batch.lengths, **options: object) -> Tensor:
        options = {"window": 40, "soft_cap": 2.0, "sinks": sinks, **options}
        return attention.decode(q, *fixed, tables, lengths, 0.5, impl="triton", **options)

    want = attend()
    shifted, dropped = batch.tables.clone(), want.clone()
    shifted[0, 3], dropped[:, 16:32] = shifted[0, 2], 0
    mistakes = {
        "page shifted": attend(shifted),
        "head dropped": dropped,
        "last key missing": attend(lengths=batch.lengths - 1, window=39),
        "window off by one": attend(window=41),
        "sinks ignored": attend(sinks=None),
        "soft cap ignored": attend(soft_cap=None),
        "all zero": torch.zeros_like(want),
    }
    for name, wrong in mistakes.items():
        assert checking.difference(wrong, want) > 2 * checking.TOLERANCE[torch.bfloat16], f"{name} passes"


@pytest.mark.filterwarnings("ignore:.*encountered")  # the interpreter's arithmetic is numpy's
def test_sinks_may_be_infinite(device: torch.device) -> None:
    """+inf takes the whole softmax, in one part (prefill) and in several (decode)."""
    batch, make = batch_of([70, 0, 1, 3000], (3, 1, 16, 16), 16, torch.float32, device)
    inf = float("inf")
    sinks, q = torch.tensor([inf, -inf, float("nan")], device=device), make(4, 3, 16)
    arguments = (q, batch.k_cache, batch.v_cache)
    cu_q = torch.arange(5, dtype=torch.int32, device=device)
    for call, place in ((attention.decode, ()), (attention.prefill, (cu_q,))):
        have, want = (
            call(*arguments, *place, batch.tables, batch.lengths, 0.3, sinks=sinks, return_lse=True, impl=impl)
            for impl in ("triton", "reference")
        )
        assert want[1][:, 0].tolist() == [inf, -inf, inf, inf]
        for mine, theirs in zip(have, want, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*encountered")
def test_sums_may_be_infinite(device: torch.device) -> None:
    inf, nan = float("inf"), float("nan")
    outs = torch.randn(3, 5, 2 * 8, generator=torch.Generator().manual_seed(11)).to(device)
    lses = torch.tensor([[inf, inf, 1e20, nan, -inf], [2.0, inf, 1e20, 5.0, -inf], [-inf, 3.0, -1e20, 1.0, -inf]])
    lses = lses.to(device)[..., None].repeat(1, 1, 2)
    for mine, theirs in zip(*(attention.merge(outs, lses, impl=impl) for impl in ("triton", "reference")), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
