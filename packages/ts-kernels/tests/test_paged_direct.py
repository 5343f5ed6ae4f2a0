"""Decode, cache writes and rotations of paged attention in one native call: as the checked path gives, or declined."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, attention, kv_cache, rope
from ts_kernels.selection import OPERATIONS

FLOATS = [torch.float32, torch.bfloat16]
H, H_KV, D, V, PAGES, PAGE = 6, 2, 24, 40, 9, 16


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def caches(stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values whose pages are spaced, as those of both are in one tensor."""
    both = randn(1, PAGES, 2, PAGE, H_KV, V).to(stored)
    return randn(2, PAGES, PAGE, H_KV, D).to(stored), both[:, 1]


def rows(dtype: torch.dtype, stored: torch.dtype, queries: int) -> dict[str, Any]:
    k_cache, v_cache = caches(stored)
    return {
        "q": randn(3, 3 * queries, H + 1, D).to(dtype)[:, 1:],
        "k_cache": k_cache,
        "v_cache": v_cache,
        "block_tables": torch.randperm(PAGES, generator=torch.Generator().manual_seed(4)).int().view(3, 3),
        "seq_lens": torch.tensor([40, 0, 17], dtype=torch.int32),
        "scale": D**-0.5,
    }


def direct(operation: str, *arguments: object) -> Any:
    return OPERATIONS[operation].direct(*arguments)


def in_order(given: dict[str, Any], sinks: Tensor | None = None, window: int | None = None) -> tuple[object, ...]:
    """The arguments of decode's direct call."""
    *tensors, scale = given.values()
    return *tensors, sinks, scale, window, 1.0, 1.0


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_decode_gives_the_same(isa: str, dtype: torch.dtype, stored: torch.dtype, queries: int) -> None:
    given = rows(dtype, stored, queries)
    attention.decode(**given)  # chooses
    for options in ({}, {"window": 7}, {"window": 0, "sinks": randn(5, H)}, {"k_scale": 0.5, "v_scale": 3.0}):
        want = attention.decode(**given, **options, impl="native")
        assert torch.equal(attention.decode(**given, **options), want)
    want = attention.decode(**given, window=7, sinks=randn(5, H), impl="native")
    assert torch.equal(direct("attention.decode", *in_order(given, randn(5, H), 7)), want)


def test_decode_declines_what_it_cannot_take(native: None) -> None:
    given = rows(torch.float32, torch.bfloat16, 2)
    want = attention.decode(**given)
    assert torch.equal(direct("attention.decode", *in_order(given)), want)
    eight = torch.float8_e4m3fn
    for change in (
        {"q": given["q"].half()},
        {"q": given["q"].transpose(1, 2).contiguous().transpose(1, 2)},
        {"q": given["q"][:5]},
        {"q": given["q"].repeat(5, 1, 1)},
        {"q": given["q"][:, :5]},
        {"q": given["q"][:, :, :16]},
        {"k_cache": given["k_cache"].to(eight), "v_cache": given["v_cache"].to(eight)},
        {"k_cache": given["k_cache"].float()},
        {"k_cache": given["k_cache"][:8]},
        {"v_cache": given["v_cache"].transpose(1, 2)},
        {"v_cache": given["v_cache"][..., :0]},
        {"block_tables": given["block_tables"].long()},
        {"block_tables": given["block_tables"][:2]},
        {"seq_lens": given["seq_lens"].long()},
        {"seq_lens": torch.zeros(6, dtype=torch.int32)[::2]},
        {"scale": math.nan},
    ):
        assert direct("attention.decode", *in_order(given | change)) is NotImplemented, change.keys()
    assert direct("attention.decode", *in_order(given, randn(1, H - 1))) is NotImplemented
    assert direct("attention.decode", *in_order(given, None, -1)) is NotImplemented
    assert torch.equal(attention.decode(**given, soft_cap=1e9), attention.decode(**given, soft_cap=1e9, impl="native"))
    out, lse = attention.decode(**given, return_lse=True)
    assert torch.equal(out, want)
    assert lse.shape == (6, H)


def test_decode_reads_no_page_that_is_not_there(native: None) -> None:
    given = rows(torch.float32, torch.float32, 1)
    attention.decode(**given)
    for name, wrong, message in (
        ("block_tables", given["block_tables"] + 9, r"block_tables\[0\] must be in \[0, 9\)"),
        ("seq_lens", given["seq_lens"] + 30, "seq_lens must be from 0 to 48"),
        ("seq_lens", given["seq_lens"] - 1, "seq_lens must be from 0 to 48"),
    ):
        with pytest.raises(ContractError, match=message):
            attention.decode(**(given | {name: wrong}))


@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_writes_give_the_same(isa: str, dtype: torch.dtype, stored: torch.dtype) -> None:
    k, v = randn(1, 5, H_KV + 2, D).to(dtype)[:, 2:], randn(2, 5, H_KV, V).to(dtype)
    slots = torch.tensor([3, -1, 143, 16, 17])
    for scales in ({}, {"k_scale": 0.5, "v_scale": 4.0}):
        have, want = caches(stored), caches(stored)
        for _ in range(2):  # the first call chooses
            kv_cache.write_kv(k, v, slots, *have, **scales)
        kv_cache.write_kv(k, v, slots, *want, **scales, impl="native")
        assert all(torch.equal(x, y) for x, y in zip(have, want, strict=True))
        assert not torch.equal(have[0], caches(stored)[0])
    cache = caches(stored)
    assert direct("kv_cache.write_kv", k, v, slots, *cache, 1.0, 1.0) is None
    for wrong in (
        (k.half(), v.half(), slots, *cache),
        (k, v[:4], slots, *cache),
        (k[:, :1], v, slots, *cache),
        (k, v[..., :8], slots, *cache),
        (k.transpose(0, 1).contiguous().transpose(0, 1), v, slots, *cache),
        (k, v, slots.int(), *cache),
        (k, v, slots, cache[0], cache[1][:8]),
        (k, v, slots, cache[0], cache[1].to(torch.float16)),
    ):
        assert direct("kv_cache.write_kv", *wrong, 1.0, 1.0) is NotImplemented
    assert direct("kv_cache.write_kv", k, v, slots, *cache, 0.0, 1.0) is NotImplemented
    with pytest.raises(ContractError, match="slot_mapping must be below 144"):
        kv_cache.write_kv(k, v, slots + 1, *cache)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotations_give_the_same(isa: str, dtype: torch.dtype) -> None:
    table, positions = rope.cos_sin(16, 50, 1e4), torch.tensor([49, 0, 7, 7])
    x = randn(6, 4, 7, D).to(dtype)[:, 1:]
    for heads in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        have, want = heads.clone(memory_format=torch.preserve_format), heads.clone()
        rope.apply_halves(have.clone(), table, positions)
        assert rope.apply_halves(have, table, positions) is have
        rope.apply_halves(want, table, positions, impl="native")
        assert torch.equal(have, want)
        assert direct("rope.apply_halves", have, table, positions) is have
    for wrong in (
        (x.half(), table, positions),
        (x[0], table, positions),
        (x[..., ::2], table, positions),
        (x[..., :8], table, positions),
        (x, table[:, :0], positions),
        (x, table.bfloat16(), positions),
        (x, table, positions[:3]),
        (x, table, positions.int()),
    ):
        assert direct("rope.apply_halves", *wrong) is NotImplemented
    with pytest.raises(ContractError, match=r"rope.apply_halves: positions must be in \[0, 50\)"):
        rope.apply_halves(x, table, positions + 1)
