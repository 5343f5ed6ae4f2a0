"""Elements more than 2^31 from the start of a tensor: pages of a long cache, slots of states, spaced heads.

Each operation runs once on small tensors and once with the same numbers far away; results must be the same bits. The
memory is reserved, not used: pages of the machine's that nothing touches cost nothing.
"""

import math
import mmap
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import attention, kv_cache, linear_attention, mla, moe, rope, sampling

FAR = 2**31  # elements
NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python names from 3.13 on


@pytest.fixture
def space(device: torch.device) -> Callable[..., Tensor]:
    """``space(dtype, elements)``: zeros that take no memory until they are written."""
    if device.type != "cpu" or sys.platform != "linux":
        pytest.skip("reserves memory as Linux does")

    def reserve(dtype: torch.dtype, elements: int) -> Tensor:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        return torch.frombuffer(mmap.mmap(-1, elements * dtype.itemsize, flags=flags), dtype=dtype)

    return reserve


Space = Callable[..., Tensor]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cache_of(space: Space, dtype: torch.dtype, *page: int) -> tuple[Tensor, int]:
    """A cache [pages, *page] whose last two pages lie beyond 2^31 elements, and their first."""
    first = -(-FAR // math.prod(page))
    return space(dtype, (first + 2) * math.prod(page)).view(-1, *page), first


def test_paged_attention(space: Space) -> None:
    pairs = [(randn(i, 2, 16, 2, 40).half(), cache_of(space, torch.float16, 16, 2, 40)) for i in range(2)]
    first = pairs[0][1][1]
    for near, (far, start) in pairs:
        far[start:] = near
    (k, (far_k, _)), (v, (far_v, _)) = pairs
    q, lengths = randn(3, 3, 4, 40).half(), torch.tensor([21], dtype=torch.int32)
    table, cu_q = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([0, 3], dtype=torch.int32)
    for call in (
        lambda k, v, table: attention.decode(q, k, v, table, lengths, 0.2, impl="triton"),
        lambda k, v, table: attention.prefill(q, k, v, cu_q, table, lengths, 0.2, impl="triton"),
    ):
        assert torch.equal(call(far_k, far_v, table + first), call(k, v, table))


def test_latent_attention(space: Space) -> None:
    near = randn(1, 2, 16, 64)
    far, first = cache_of(space, torch.float32, 16, 64)
    far[first:] = near
    table, lengths = torch.tensor([[1, 0]], dtype=torch.int32), torch.tensor([21], dtype=torch.int32)
    cu_q, q = torch.tensor([0, 3], dtype=torch.int32), randn(3, 3, 2, 48)
    weight = mla.prepare_kv_b(randn(2, 2 * (32 + 32), 48), heads=2, nope=32, v=32, keep_source=True)
    for call in (
        lambda cache, table: mla.decode(q, cache, weight, table, lengths, 0.2, q_len=3, impl="triton"),
        lambda cache, table: mla.prefill(q, cache, weight, cu_q, table, lengths, 0.2, impl="triton"),
    ):
        assert torch.equal(call(far, table + first), call(near, table))


def test_cache_writes_and_copies(space: Space) -> None:
    far_k, first = cache_of(space, torch.float16, 16, 2, 40)
    far_v, _ = cache_of(space, torch.float16, 16, 2, 40)
    k, v, slots = randn(1, 2, 2, 40).half(), randn(2, 2, 2, 40).half(), torch.tensor([17, -1]) + 16 * first
    slots[1] = -1
    kv_cache.write_kv(k, v, slots, far_k, far_v, impl="triton")
    assert torch.equal(far_k[first + 1, 1], k[0])
    assert torch.equal(far_v[first + 1, 1], v[0])
    kv_cache.copy_pages(far_k, far_k, torch.tensor([first + 1]), torch.tensor([0]), impl="triton")
    assert torch.equal(far_k[0], far_k[first + 1])
    latent, first = cache_of(space, torch.float32, 16, 64)
    rows, table = randn(3, 1, 64), torch.ones(4, 16)
    kv_cache.write_latent(
        rows, torch.ones(48), 1e-6, table, torch.tensor([2]), torch.tensor([16 * first + 3]), latent, impl="triton"
    )
    near = torch.zeros(1, 16, 64)
    kv_cache.write_latent(rows, torch.ones(48), 1e-6, table, torch.tensor([2]), torch.tensor([3]), near, impl="triton")
    assert torch.equal(latent[first, 3], near[0, 3])


def test_states(space: Space) -> None:
    heads, width = 2, 64
    far, first = cache_of(space, torch.float32, heads, width, width)
    near = randn(1, 2, heads, width, width)
    far[first:] = near
    q, k, v = (randn(i, 1, heads, width) for i in (2, 3, 4))
    gates = [randn(i, *shape) for i, shape in ((5, (1, heads)), (6, (1, heads)), (7, (heads,)), (8, (heads,)))]
    step = [
        linear_attention.gated_delta_step(q, k, v, *gates, pool, slots, impl="triton")
        for pool, slots in ((far, torch.tensor([first + 1])), (near, torch.tensor([1])))
    ]
    assert torch.equal(*step)
    assert torch.equal(far[first:], near)
    linear_attention.copy_states(far, far, torch.tensor([first + 1]), torch.tensor([0]), impl="triton")
    assert torch.equal(far[0], near[1])


def test_counts_of_tokens(space: Space) -> None:
    counts, first = cache_of(space, torch.int16, 4096)
    slots, tokens = torch.tensor([first + 1]), torch.tensor([[5, 5, 9]], dtype=torch.int32)
    sampling.count_tokens(counts, slots, tokens, prompt=False, impl="triton")
    assert counts[first + 1, [5, 9, 6]].tolist() == [2, 1, 0]
    logits = torch.ones(1, 4096)
    one = torch.ones(1)
    sampling.apply_penalties(logits, counts, slots, one, 0 * one, one, impl="triton")
    assert logits[0, [5, 9, 6]].tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("impl", ["triton", "native"])
def test_an_expert_far_away(space: Space, impl: str) -> None:
    weight, first = cache_of(space, torch.bfloat16, 64, 2**13)
    near = randn(1, 2, 64, 2**13).bfloat16()
    weight[first:] = near
    x, ids = randn(2, 1, 2**13).bfloat16(), torch.tensor([[1, 0]], dtype=torch.int32)
    have = moe.grouped_linear(x, ids + first, weight, impl=impl)
    assert torch.equal(have, moe.grouped_linear(x, ids, near, impl=impl))


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_other_kernels_reach_as_far(native: None, space: Space, impl: str) -> None:
    """The caches of paged and of latent attention, written and read."""
    (far_k, first), (far_v, _) = (cache_of(space, torch.bfloat16, 16, 2, 40) for _ in range(2))
    k, v, slot = randn(1, 1, 2, 40).bfloat16(), randn(2, 1, 2, 40).bfloat16(), torch.tensor([16 * first])
    kv_cache.write_kv(k, v, slot, far_k, far_v, impl=impl)
    table, length = torch.tensor([[first]], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    have = attention.decode(k, far_k, far_v, table, length, 0.2, impl=impl)
    torch.testing.assert_close(have, v.flatten(1), rtol=0, atol=0)
    have = attention.prefill(k, far_k, far_v, torch.tensor([0, 1], dtype=torch.int32), table, length, 0.2, impl=impl)
    torch.testing.assert_close(have, v.flatten(1), rtol=0, atol=0)
    latents, first = cache_of(space, torch.float32, 16, 64)
    latents[first, 0] = randn(3, 64)
    q = randn(4, 1, 2, 64)
    have = mla.decode_absorbed(q[..., :48], q[..., 48:], latents, table * 0 + first, length, 0.2, impl=impl)
    torch.testing.assert_close(have, latents[first, 0, :48].expand(1, 2, 48))


def test_heads_far_apart(space: Space) -> None:
    """Three heads 2^30 elements from one another."""
    far = space(torch.float32, FAR + 64).as_strided((2, 3, 16), (16, 2**30, 1))
    near = randn(1, 2, 3, 16)
    far.copy_(near)
    positions, table = torch.tensor([1, 3]), rope.cos_sin(8, 8, 1e4)
    rope.apply_halves(far, table, positions, impl="triton")
    assert torch.equal(far, rope.apply_halves(near, table, positions, impl="triton"))


def test_heads_of_latent_queries_far_apart(space: Space) -> None:
    far = space(torch.float32, FAR + 256).as_strided((2, 3, 64), (64, 2**30, 1))
    near = randn(1, 2, 3, 64)
    far.copy_(near)
    cache, table = randn(2, 2, 16, 64), torch.tensor([[1, 0]], dtype=torch.int32)
    lengths, cu_q = torch.tensor([21], dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32)
    weight = mla.prepare_kv_b(randn(3, 3 * (48 + 32), 48), heads=3, nope=48, v=32, keep_source=True)
    for call in (
        lambda q: mla.decode_absorbed(q[..., :48], q[..., 48:], cache, table, lengths, 0.2, q_len=2, impl="triton"),
        lambda q: mla.prefill(q, cache, weight, cu_q, table, lengths, 0.2, impl="triton"),
    ):
        assert torch.equal(call(far), call(near))
