"""What kernels write to: memory of its own, apart from what they read, no place twice (in debug mode); and what they
cannot read at all.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from ts_kernels import (
    ContractError,
    activation,
    contract,
    kv_cache,
    linear_attention,
    norm,
    platform,
    rope,
    sampling,
)

BUFFER = torch.zeros(64)


def strided(rng: random.Random) -> Tensor:
    """Two dimensions anywhere in the buffer, rows dense."""
    rows, columns = rng.randint(1, 4), rng.randint(1, 5)
    return BUFFER.as_strided((rows, columns), (rng.randint(columns, 12), 1), rng.randint(0, 20))


def places(x: Tensor) -> list[int]:
    """Where each element lies in the buffer."""
    index = torch.arange(64).as_strided(x.shape, x.stride(), x.storage_offset())
    return index.flatten().tolist()


def test_disjoint_tells_what_a_list_of_addresses_tells() -> None:
    rng = random.Random(1)
    met = 0
    for _ in range(5000):
        x, other = strided(rng), strided(rng)
        shares = bool(set(places(x)) & set(places(other)))
        met += shares
        try:
            contract.disjoint("o", "x", x, "other", other)
        except ContractError:
            strange = len(x) > 1 < len(other) and x.stride(0) != other.stride(0)  # no layout of caches: refused unread
            assert shares or strange, (x.shape, x.stride(), x.storage_offset(), other.stride(), other.storage_offset())
        else:
            assert not shares, (x.shape, x.stride(), x.storage_offset(), other.stride(), other.storage_offset())
    assert 500 < met < 4500


def test_apart_tells_what_a_list_of_addresses_tells() -> None:
    """But for layouts in which dimensions interlock without touching, which no operation of torch's makes."""
    rng = random.Random(2)
    for _ in range(3000):
        shape = tuple(rng.randint(1, 3) for _ in range(3))
        x = BUFFER.as_strided(shape, tuple(rng.choice((0, 1, 2, 3, 6, 9)) for _ in shape), 0)
        twice = len(set(places(x))) < x.numel()
        try:
            contract.apart("o", "x", x)
        except ContractError:
            continue
        assert not twice, (x.shape, x.stride())
    contract.apart("o", "x", BUFFER[:24].view(2, 3, 4).permute(2, 0, 1)[:, :, ::2])
    contract.apart("o", "x", BUFFER[:0].view(0, 1).expand(0, 5))


K, SLOTS = torch.ones(2, 1, 4), torch.tensor([0, 3])


def caches() -> Tensor:
    """Keys and values page by page in one tensor."""
    return torch.zeros(3, 2, 2, 1, 4)


def write(k_cache: Tensor, v_cache: Tensor, slots: Tensor = SLOTS) -> None:
    kv_cache.write_kv(K, 2 * K, slots, k_cache, v_cache)


@pytest.mark.parametrize("times", [1, 2])  # through the checks, and by the shortcut that the first call leaves
def test_keys_and_values_share_no_memory(times: int) -> None:
    for _ in range(times):
        both = caches()
        write(both[:, 0], both[:, 1])
        assert (both[0, 0, 0] == 1).all()
        assert (both[1, 1, 1] == 2).all()
    one = torch.zeros(3, 2, 1, 4)
    for k_cache, v_cache in ((one, one), (both[:, 0], both[:, 0]), (one[:2], one[1:]), (both[:2, 1], both[1:, 1])):
        with pytest.raises(ContractError, match="v_cache must be apart from k_cache in memory"):
            write(k_cache, v_cache)


@pytest.mark.parametrize("times", [1, 2])
def test_a_residual_is_apart_from_what_is_added(times: int) -> None:
    x, gain = torch.ones(3, 8), torch.ones(8)
    for _ in range(times):
        norm.add_rms_norm(x, torch.zeros(3, 8), gain, 0.0)
    joint = torch.ones(16)
    norm.add_rms_norm(joint[:8].view(1, 8), joint[8:].view(1, 8), gain, 0.0)
    assert (joint[8:] == 2).all()
    for one, residual in ((x, x), (joint[:8].view(1, 8), joint[7:15].view(1, 8))):
        with pytest.raises(ContractError, match="residual must be apart from x in memory"):
            norm.add_rms_norm(one, residual, gain, 0.0)


WRITES: list[tuple[Callable[..., object], list[Any]]] = [
    (sampling.apply_mask, [torch.zeros(8).expand(2, 8), torch.zeros(2, 1, dtype=torch.int32)]),
    (sampling.apply_bias, [torch.zeros(8).expand(2, 8), *[torch.zeros(1, dtype=torch.int32)] * 2, torch.ones(1)]),
    (
        sampling.apply_penalties,
        [torch.zeros(8).expand(2, 8), torch.zeros(2, 8, dtype=torch.int16), torch.arange(2), *[torch.ones(2)] * 3],
    ),
    (sampling.apply_mask, [torch.zeros(9).as_strided((2, 8), (1, 1)), torch.zeros(2, 1, dtype=torch.int32)]),
    (rope.apply_halves, [torch.zeros(1, 2, 8).expand(3, 2, 8), torch.ones(9, 8), torch.arange(3)]),
    (rope.apply_interleaved, [torch.zeros(3, 1, 8).expand(3, 2, 8), torch.ones(9, 8), torch.arange(3)]),
    (write, [torch.zeros(1, 2, 1, 4).expand(3, 2, 1, 4), caches()[:, 1]]),
]


@pytest.mark.parametrize(("call", "arguments"), WRITES)
def test_one_place_is_not_written_as_several(call: Callable[..., object], arguments: list[Any]) -> None:
    own = [x.clone(memory_format=torch.contiguous_format) if isinstance(x, Tensor) else x for x in arguments]
    call(*own)  # the layout alone is wrong
    for _ in range(2):
        with pytest.raises(ContractError, match="of elements with memory of their own, as they are written to"):
            call(*arguments)


def i32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def conv(slots: Tensor) -> Tensor:
    pool = torch.zeros(4, 3, 8)
    linear_attention.causal_conv_step(torch.ones(2, 8), torch.ones(8, 4), pool, slots)
    return pool


def delta(slots: Tensor) -> Tensor:
    q, v, gate = torch.ones(2, 1, 4), torch.ones(2, 1, 4), torch.zeros(2, 1)
    pool = torch.zeros(4, 1, 4, 4)
    linear_attention.gated_delta_step(q, q, v, gate, gate, torch.zeros(1), torch.zeros(1), pool, slots)
    return pool


def latent(slots: Tensor) -> Tensor:
    gain, table, cache = torch.ones(4), torch.ones(3, 2), torch.zeros(3, 2, 6)
    kv_cache.write_latent(torch.ones(2, 6), gain, 1e-5, table, torch.tensor([0, 1]), slots, cache)
    return cache


def count(slots: Tensor) -> Tensor:
    counts = torch.zeros(4, 8, dtype=torch.int16)
    sampling.count_tokens(counts, slots, torch.zeros(2, 3, dtype=torch.int32), prompt=True)
    return counts


def copy(target: Tensor) -> None:
    kv_cache.copy_pages(torch.ones(4, 8), torch.zeros(4, 8), torch.tensor([0, 1]), target)


def bias(tokens: Tensor) -> None:
    sampling.apply_bias(torch.zeros(1, 8), i32(0, 0), tokens.int(), torch.ones(2))


def states(target: Tensor) -> None:
    linear_attention.copy_states(torch.ones(4, 8), torch.zeros(4, 8), torch.tensor([0, 1]), target)


def pages_of_one(target: Tensor) -> None:
    pool = torch.ones(4, 8)
    kv_cache.copy_pages(pool, pool, torch.tensor([0, 0]), target)


def states_of_one(target: Tensor) -> None:
    pool = torch.ones(4, 8)
    linear_attention.copy_states(pool, pool, torch.tensor([0, 0]), target)


@pytest.mark.parametrize("call", [conv, delta, latent, count, copy, bias, states, pages_of_one, states_of_one, write])
def test_debug_mode_finds_a_place_that_is_written_twice(debug: None, call: Callable[..., object]) -> None:
    def run(slots: Tensor) -> None:
        if call is write:
            write(torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4), slots)
        else:
            call(slots)

    run(torch.tensor([3, 1]))
    with pytest.raises(ContractError, match=r"must be distinct, got .* 2 times"):
        run(torch.tensor([1, 1]))


@pytest.mark.parametrize("call", [conv, delta, latent, count])
def test_padding_may_come_often(debug: None, call: Callable[..., Tensor]) -> None:
    """And writes nowhere, where a slot would."""
    assert call(torch.tensor([-1, 2])).any()
    assert not call(torch.tensor([-1, -1])).any()


@pytest.mark.parametrize("call", [pages_of_one, states_of_one])
def test_debug_mode_finds_a_place_that_is_read_and_written(debug: None, call: Callable[..., None]) -> None:
    with pytest.raises(ContractError, match="must be distinct, got 0 2 times"):
        call(torch.tensor([0, 1]))


@pytest.mark.skipif(platform.native_error() is not None, reason="native kernels are not built")
def test_what_kernels_cannot_read_is_named() -> None:
    """On the path through the checks and by the shortcut; views of another sign are torch's own, as of conj().imag."""
    x, gain = torch.ones(2, 4), torch.ones(4)
    turned = torch.complex(x, x).conj().imag
    assert turned.is_neg()
    for _ in range(2):
        norm.rms_norm(x, gain, 0.0)
        for wrong in (turned, torch._efficientzerotensor((2, 4))):
            with pytest.raises(ContractError, match="x must be a tensor whose numbers are in memory as they are"):
                norm.rms_norm(wrong, gain, 0.0)
            with pytest.raises(ContractError, match="gate_up must be a tensor whose"):
                activation.swiglu_clamped(wrong, alpha=1.0, limit=1.0)
        with pytest.raises(ContractError, match="x must be a tensor whose"):
            norm.rms_norm(turned[:, :1], gain[:1], 0.0)  # of columns that are as good as adjacent
    assert torch.equal(norm.rms_norm(turned.resolve_neg(), gain, 0.0), -x)
    with FakeTensorMode(), pytest.raises(ContractError, match="x must be a tensor whose"):
        norm.rms_norm(torch.ones(2, 4), torch.ones(4), 0.0)
    with pytest.raises(ContractError, match="x must be a tensor whose"):
        torch.func.vmap(lambda row: norm.rms_norm(row[None], gain, 0.0))(x)
    with pytest.raises(ContractError, match="x must be a tensor whose"):
        torch.func.grad(lambda rows: norm.rms_norm(rows, gain, 0.0).sum())(x)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_results_require_no_gradients(impl: str | None) -> None:
    """And what is written in place may require them: it is not recorded."""
    x, gain = torch.ones(2, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    assert not norm.rms_norm(x, gain, 0.0, impl=impl).requires_grad
    heads, table = torch.ones(2, 1, 8, requires_grad=True), torch.ones(3, 8, requires_grad=True)
    with torch.no_grad():
        before = heads.clone()
    turned = rope.apply_halves(heads, table, torch.tensor([1, 2]), impl=impl)
    assert turned is heads
    assert not torch.equal(heads, before)
    assert heads.grad_fn is None
