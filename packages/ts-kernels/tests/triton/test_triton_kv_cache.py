"""Cache writes and copies in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from ts_kernels import checking, kv_cache, rope

FP8 = torch.float8_e4m3fn
Close = Callable[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, FP8])
@pytest.mark.parametrize(("tokens", "latent", "pairs"), [(0, 8, 1), (1, 8, 1), (9, 100, 8)])
def test_write_latent(
    device: torch.device,
    assert_close: Close,
    dtype: torch.dtype,
    stored: torch.dtype,
    tokens: int,
    latent: int,
    pairs: int,
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    width = latent + 2 * pairs
    kv_a = (2 * torch.randn(tokens, width + 7, generator=generator)).to(device, dtype)[:, 3:-4]
    gain, table = torch.randn(latent, generator=generator).to(device), rope.cos_sin(2 * pairs, 99, 1e4).to(device)
    slots = torch.randperm(4 * 5, generator=generator)[:tokens].to(device)
    slots[1:2] = -1
    positions = torch.randint(99, (tokens,), generator=generator).to(device)
    scale = torch.tensor([0.013], device=device) if stored == FP8 else None
    caches = []
    for impl, factor in (("triton", 1.0), ("reference", 1.0), ("triton", 1.3)):
        cache = torch.full((5, 4, width), torch.nan, device=device).to(stored)
        arguments = (kv_a, factor * gain, 1e-5, table, positions, slots, cache)
        kv_cache.write_latent(*arguments, cache_scale=scale, impl=impl)
        caches.append(cache)
    have, want, wrong = (cache.float() for cache in caches)
    assert torch.equal(have.isnan(), want.isnan())
    # Numbers a last bit apart may round to neighbours, in FP8 an eighth apart.
    limit = 2.0**-3 if stored == FP8 else max(checking.TOLERANCE[dtype], checking.TOLERANCE[stored])
    assert checking.difference(have, want) <= limit
    if stored == FP8 and tokens:
        assert float(have.nan_to_num(0.0).abs().max()) <= 448
        assert (have.nan_to_num(0.0) != want.nan_to_num(0.0)).float().mean() < 1e-2
    if tokens:
        assert (wrong.nan_to_num(0.0) != want.nan_to_num(0.0)).float().mean() > 0.1 * tokens / 20


def test_e4m3_rounds_as_torch_does(device: torch.device) -> None:
    """Every tie and its neighbours, down to the smallest numbers; beyond the largest it saturates, and keeps NaN."""
    numbers = torch.arange(127, dtype=torch.uint8).view(FP8).float()
    ties = (numbers[1:] + numbers[:-1]) / 2
    values = torch.cat((numbers, ties, ties * (1 + 2.0**-20), ties * (1 - 2.0**-20), torch.tensor([449.0, 1e30])))
    values = torch.cat((values, -values, torch.tensor([torch.nan, torch.nan])))
    # As rotary pairs of one token at position 0, where nothing turns: one program for all.
    kv_a = torch.cat((torch.ones(1), values))[None].to(device)
    cache, table = torch.zeros(1, 1, kv_a.shape[1]).to(FP8).to(device), rope.cos_sin(values.numel(), 1, 10.0).to(device)
    gain, where = torch.ones(1, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    kv_cache.write_latent(kv_a, gain, 0.0, table, where, where, cache, impl="triton")
    have = cache[0, 0, 1:].cpu().float()
    assert torch.equal(have[:-2], values[:-2].clamp(-448, 448).to(FP8).float())
    assert have[-2:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8, torch.uint8])
@pytest.mark.parametrize("shape", [(4,), (3, 5), (16, 9), (64, 40)])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_copy_pages(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    source = (10 * torch.randn(9, *shape, generator=generator)).to(dtype).to(device)
    start = (10 * torch.randn(6, *shape, generator=generator)).to(dtype).to(device)
    taken = torch.randint(9, (count,), generator=generator).to(device)
    given = torch.randperm(6, generator=generator)[:count].to(device)
    have, want = start.clone(), start.clone()
    kv_cache.copy_pages(source, have, taken, given, impl="triton")
    kv_cache.copy_pages(source, want, taken, given, impl="reference")
    assert torch.equal(have.view(torch.uint8), want.view(torch.uint8))


def test_offload_and_back(device: torch.device) -> None:
    """From the device's cache to the host's and to other pages of the device's."""
    cache, host = torch.randn(5, 4, 3, device=device), torch.zeros(7, 4, 3)
    want = cache[[3, 1]].clone()
    kv_cache.copy_pages(cache, host, torch.tensor([3, 1]).to(device), torch.tensor([6, 0]).to(device))
    kv_cache.copy_pages(host, cache, torch.tensor([6, 0]).to(device), torch.tensor([0, 2]).to(device))
    assert torch.equal(cache[[0, 2]], want)


def test_copy_pages_of_caches_that_begin_anywhere(device: torch.device) -> None:
    """Pages of whole words in a slice that begins within one."""
    pool = torch.arange(100, device=device).to(torch.float16)
    source, target = pool[1:41].view(5, 8), torch.zeros(43, dtype=torch.float16, device=device)[3:].view(5, 8)
    kv_cache.copy_pages(source, target, torch.tensor([4, 0]).to(device), torch.tensor([1, 2]).to(device), impl="triton")
    assert torch.equal(target[[1, 2, 0]], torch.stack((source[4], source[0], torch.zeros_like(source[0]))))
