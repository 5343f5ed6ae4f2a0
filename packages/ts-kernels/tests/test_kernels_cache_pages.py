"""FP8 writes, copies of pages, layer norm: native against reference, and both against torch's own."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import ContractError, checking, kv_cache, norm, rope

Close = Callable[..., None]
FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
FP8 = torch.float8_e4m3fn


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    tokens=st.sampled_from([0, 1, 5, 40]),
    latent=st.sampled_from([8, 64, 100]),
    factor=st.sampled_from([None, 1.0, 0.013, 2.0]),
    dtype=FLOATS,
)
def test_fp8_writes(isa: str, tokens: int, latent: int, factor: float | None, dtype: torch.dtype) -> None:
    table = rope.cos_sin(16, 99, 50000.0)
    slots = torch.randperm(tokens + 7, generator=torch.Generator().manual_seed(3))[:tokens]
    if tokens > 1:
        slots[1] = -1
    kv_a, positions = (3 * randn(1, tokens, latent + 16)).to(dtype), torch.arange(tokens)
    scale = None if factor is None else torch.tensor([factor])
    caches = []
    for impl in ("native", "reference"):
        cache = torch.full((tokens + 7, 1, latent + 16), torch.nan).to(FP8)
        arguments = (kv_a, randn(2, latent), 1e-5, table, positions, slots, cache)
        kv_cache.write_latent(*arguments, cache_scale=scale, impl=impl)
        caches.append(cache.float())
    wide = torch.full((tokens + 7, 1, latent + 16), torch.nan)
    kv_cache.write_latent(kv_a, randn(2, latent), 1e-5, table, positions, slots, wide, impl="reference")
    have, want = (cache.nan_to_num(0.0) for cache in caches)
    assert torch.equal(caches[0].isnan(), wide.isnan()), "slots written that should not be, or the other way round"
    assert float(have.abs().max()) <= 448
    # Numbers a last bit apart may round to neighbours, which are an eighth apart; one in thousands does.
    assert (have != want).float().mean() < 2e-3
    true = wide.nan_to_num(0.0) / (factor or 1.0)
    error = (have - true).abs() - true.abs().clamp(max=448) / 16
    inside = true.abs() <= 448
    assert float(error[inside].clamp(min=0).max() if inside.any() else 0.0) <= 2.0**-10, "not the nearest number"


def test_e4m3_rounds_as_torch_does(isa: str) -> None:
    """Every tie and its neighbours, down to the smallest numbers; beyond the largest it saturates, and keeps NaN."""
    numbers = torch.arange(127, dtype=torch.uint8).view(FP8).float()
    ties = (numbers[1:] + numbers[:-1]) / 2
    values = torch.cat((numbers, ties, ties * (1 + 2.0**-20), ties * (1 - 2.0**-20), torch.tensor([449.0, 1e30])))
    values = torch.cat((values, -values, torch.tensor([torch.nan])))
    count = values.numel()
    kv_a = torch.cat((torch.ones(count, 1), values[:, None], torch.zeros(count, 1)), 1)
    cache = torch.zeros(count, 1, 3).to(FP8)
    table, where = rope.cos_sin(2, 1, 10.0), torch.arange(count)
    kv_cache.write_latent(kv_a, torch.ones(1), 0.0, table, torch.zeros_like(where), where, cache, impl="native")
    want = values.clamp(-448, 448).to(FP8)
    assert torch.equal(cache[:-1, 0, 1].float(), want[:-1].float())
    assert cache[-1, 0, 1].float().isnan()


@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, FP8, torch.uint8]),
    shape=st.sampled_from([(4,), (3, 5), (16, 2, 9)]),
    count=st.sampled_from([0, 1, 4]),
)
def test_copies(native: None, dtype: torch.dtype, shape: tuple[int, ...], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    source, start = (10 * randn(1, 9, *shape)).to(dtype), (10 * randn(2, 6, *shape)).to(dtype)
    taken, given_ = torch.randint(9, (count,), generator=generator), torch.randperm(6, generator=generator)[:count]
    for impl in ("native", "reference"):
        target = start.clone()
        kv_cache.copy_pages(source, target, taken, given_, impl=impl)
        for page in range(6):
            where = (given_ == page).nonzero().flatten().tolist()
            want = source[int(taken[where[0]])] if where else start[page]
            assert torch.equal(target[page].float(), want.float())


def test_copies_within_one_cache(native: None) -> None:
    cache = randn(1, 8, 4, 3)
    want = cache.clone()
    want[[6, 1]] = cache[[0, 3]]
    kv_cache.copy_pages(cache, cache, torch.tensor([0, 3]), torch.tensor([6, 1]), impl="native")
    assert torch.equal(cache, want)


def test_native_copy_checks_pages(native: None) -> None:
    cache = torch.zeros(3, 4)
    for taken, given_ in ((3, 0), (0, 3), (-1, 0), (0, -1)):
        name, page = ("source_pages", taken) if taken else ("target_pages", given_)
        with pytest.raises(ContractError, match=rf"copy_pages: {name} must be in \[0, 3\), got {page}$"):
            kv_cache.copy_pages(cache, cache, torch.tensor([taken]), torch.tensor([given_]), impl="native")


@given(rows=st.sampled_from([0, 1, 3, 40]), width=st.sampled_from([1, 3, 63, 64, 257, 1152]), dtype=FLOATS, gain=FLOATS)
def test_layer_norm(
    isa: str, assert_close: Close, rows: int, width: int, dtype: torch.dtype, gain: torch.dtype
) -> None:
    # Far from zero, where a variance as a difference of squares would have lost its digits.
    x = (randn(1, rows, width + 7) + 100)[:, 3:-4].to(dtype)
    weight, bias = randn(2, width).to(gain), randn(3, width).to(gain)
    have = norm.layer_norm(x, weight, bias, 1e-5, impl="native")
    want = norm.layer_norm(x, weight, bias, 1e-5, impl="reference")
    if width > 3 or dtype == torch.bfloat16:  # of three numbers nearly alike, fp32 itself loses digits
        assert_close(have, want)
        assert_close(want.double(), F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5), dtype)
    if rows and width > 3:
        for wrong in (norm.layer_norm(x, weight * 1.1, bias, 1e-5, impl="native"), have - bias, torch.zeros_like(have)):
            assert checking.difference(wrong.to(dtype), want) > 2 * checking.TOLERANCE[dtype]


@pytest.mark.parametrize("width", [8, 100, 1152])
def test_layer_norm_of_a_row_of_one_number_is_its_bias(isa: str, width: int) -> None:
    """Whose sum rounds: what the mean is off by must not be taken for a deviation."""
    x, weight, bias = torch.full((3, width), 1e4 + 0.1), torch.full((width,), 1.5), torch.linspace(-1, 1, width)
    for impl in ("native", "reference"):
        torch.testing.assert_close(norm.layer_norm(x, weight, bias, 1e-5, impl=impl), bias.expand(3, width))


PAGES, ONE = torch.zeros(3, 4, 5), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kv_cache.copy_pages(PAGES[:, 0, 0], PAGES, ONE, ONE), r"source must be \[pages, ...\]"),
        (lambda: kv_cache.copy_pages(PAGES, PAGES[:, :3], ONE, ONE), r"target must be \[pages, 4, 5\]"),
        (lambda: kv_cache.copy_pages(PAGES, PAGES.double(), ONE, ONE), "target must be float32"),
        (lambda: kv_cache.copy_pages(PAGES.mT, PAGES.mT, ONE, ONE), "source must be contiguous"),
        (lambda: kv_cache.copy_pages(PAGES, PAGES, ONE.int(), ONE), "source_pages must be int64"),
        (lambda: kv_cache.copy_pages(PAGES, PAGES, ONE, ONE[:0]), r"target_pages must be \[1\]"),
        (lambda: norm.layer_norm(PAGES[0], PAGES[0, 0], PAGES[0, 0, :4], 1e-5), r"bias must be \[5\]"),
        (lambda: norm.layer_norm(PAGES[0], PAGES[0, 0, :4], PAGES[0, 0], 1e-5), r"weight must be \[5\]"),
        (lambda: norm.layer_norm(PAGES[0], PAGES[0, 0], PAGES[0, 0].double(), 1e-5), "bias must be float32"),
    ],
)
def test_wrong_argument(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        call()
