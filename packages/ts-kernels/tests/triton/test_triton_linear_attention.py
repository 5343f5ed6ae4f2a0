"""Gated delta nets in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import linear_attention

Close = Callable[..., None]
LENGTHS = (5, 0, 70, 1, 33)


def seeded(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(device)


def states_of(device: torch.device, slots: Tensor, *sizes: int) -> Tensor:
    """States in the slots, NaN elsewhere."""
    pool = torch.full((8, *sizes), torch.nan, device=device)
    pool[slots] = seeded(device, len(slots), *sizes)
    return pool


def spans(device: torch.device) -> Tensor:
    return torch.tensor([0, *LENGTHS], device=device).cumsum(0).int()


def delta_inputs(device: torch.device, tokens: int, heads: tuple[int, int], widths: tuple[int, int]) -> list[Tensor]:
    sizes = [heads[0] * widths[0]] * 2 + [heads[1] * widths[1]]
    q, k, v = seeded(device, tokens, sum(sizes)).split(sizes, -1)
    made = [q.unflatten(1, (heads[0], -1)), k.unflatten(1, (heads[0], -1)), v.unflatten(1, (heads[1], -1))]
    made += [seeded(device, tokens, heads[1], seed=s) for s in (1, 2)]
    return [*made, seeded(device, heads[1], seed=3), seeded(device, heads[1], seed=4)]


@pytest.mark.parametrize(("heads", "widths"), [((1, 2), (32, 48)), ((1, 1), (20, 7))])
def test_gated_delta(
    device: torch.device, assert_close: Close, heads: tuple[int, int], widths: tuple[int, int]
) -> None:
    """Several rows with states, one of them fresh in a poisoned slot; then one without a slot."""
    x = delta_inputs(device, sum(LENGTHS), heads, widths)
    slots, fresh = (
        torch.tensor([6, 1, 7, 0, 3], device=device),
        torch.tensor([False, True, False, False, True]).to(device),
    )
    pool = states_of(device, slots, heads[1], *widths)
    pool[[1, 3]] = torch.nan
    results = []
    for impl in ("reference", "triton"):
        states = pool.clone()
        out = linear_attention.gated_delta(*x, states, slots, spans(device), fresh, impl=impl)
        results.append((out, states))
    for have, want in zip(results[1], results[0], strict=True):
        assert_close(have, want)
    with pytest.raises(AssertionError, match="differs"):
        assert_close(
            linear_attention.gated_delta(*x, pool.clone(), slots.roll(2), spans(device), impl="triton"), results[0][0]
        )
    slots[2], states = -1, pool.clone()
    out = linear_attention.gated_delta(*x, states, slots, spans(device), fresh, impl="triton")
    assert (out[5:75] == 0).all()
    assert torch.equal(states[7], pool[7])
    assert_close(out[75:], results[0][0][75:])


def test_keys_that_repeat(device: torch.device, assert_close: Close) -> None:
    """One key all along, full strength, no decay: the system's worst condition, where powers of A would overflow."""
    q, k, v, a, b, a_log, bias = delta_inputs(device, 64, (1, 1), (32, 32))
    k = k[:1].expand(64, -1, -1).contiguous()
    slots, cu_q = torch.tensor([0], device=device), torch.tensor([0, 64], device=device).int()
    each = (q, k, v, a, torch.full_like(b, 30.0), torch.full_like(a_log, -30.0), bias)
    results = []
    for impl in ("reference", "triton"):
        states = seeded(device, 1, 1, 32, 32)
        results.append(linear_attention.gated_delta(*each, states, slots, cu_q, impl=impl))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_delta_step(device: torch.device, assert_close: Close, dtype: torch.dtype) -> None:
    x = delta_inputs(device, 4, (2, 4), (40, 70))
    x[:5] = [t.to(dtype) for t in x[:5]]
    slots = torch.tensor([5, 2, -1, 0], device=device)
    pool = states_of(device, slots[slots >= 0], 4, 40, 70)
    results = []
    for impl in ("reference", "triton"):
        states = pool.clone()
        results.append((linear_attention.gated_delta_step(*x, states, slots, impl=impl), states))
    assert_close(results[1][0], results[0][0])
    assert_close(results[1][1], results[0][1])
    assert (results[1][0][2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "width"), [(100, 4), (3, 2)])
def test_convolution(device: torch.device, assert_close: Close, dtype: torch.dtype, channels: int, width: int) -> None:
    x = seeded(device, sum(LENGTHS), channels + 5)[:, 3:-2].to(dtype)
    weight = seeded(device, channels, width).to(dtype)
    slots, fresh = (
        torch.tensor([6, 1, 7, -1, 3], device=device),
        torch.tensor([False, True, False, False, True]).to(device),
    )
    pool = states_of(device, torch.tensor([6, 7], device=device), width - 1, channels)
    results = []
    for impl in ("reference", "triton"):
        states = pool.clone()
        out = linear_attention.causal_conv(x, weight, states, slots, spans(device), fresh, impl=impl)
        step = linear_attention.causal_conv_step(x[:3], weight, states, slots[[4, 3, 0]], impl=impl)
        results.append((out, states, step))
    for have, want in zip(results[1], results[0], strict=True):
        assert_close(have, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_norm_and_copies(device: torch.device, assert_close: Close, dtype: torch.dtype) -> None:
    x, z = seeded(device, 2, 13, 110)[..., 5:-5].to(dtype)
    weight = seeded(device, 100)
    want = linear_attention.gated_rms_norm(x, z, weight, 1e-6, impl="reference")
    assert_close(linear_attention.gated_rms_norm(x, z, weight, 1e-6, impl="triton"), want)
    pool = seeded(device, 6, 3, 50, 40).to(dtype)
    before, pairs = pool.clone(), (torch.tensor([1, -1, 4]).to(device), torch.tensor([3, 2, 0]).to(device))
    linear_attention.copy_states(pool, pool, *pairs, impl="triton")
    assert torch.equal(pool, before[[4, 1, 2, 1, 4, 5]])


def test_empty_batches(device: torch.device) -> None:
    x, none = delta_inputs(device, 0, (1, 2), (8, 8)), torch.empty(0, dtype=torch.int64, device=device)
    states, cu_q = torch.zeros(1, 2, 8, 8, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    assert linear_attention.gated_delta(*x, states, none, cu_q, impl="triton").shape == (0, 2, 8)
    assert linear_attention.gated_delta_step(*x, states, none, impl="triton").shape == (0, 2, 8)
    conv, weight = torch.zeros(1, 3, 8, device=device), torch.ones(8, 4, device=device)
    assert linear_attention.causal_conv(x[0].flatten(1), weight, conv, none, cu_q, impl="triton").shape == (0, 8)
    assert (
        linear_attention.gated_rms_norm(x[0].flatten(1), x[0].flatten(1), weight[:, 0], 1.0, impl="triton").numel() == 0
    )
