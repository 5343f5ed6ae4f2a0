"""Numbers that are none, or too large: native kernels pass them on like the reference, and never make sense of them."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from ts_kernels import activation, attention, linear_attention, mla, moe

NAN, INF = float("nan"), float("inf")
SPECIAL = torch.tensor([-INF, -3e38, -1e30, -300.0, -90.0, -88.5, -80.0, -5.0, -0.0, 1e-42, 80.0, 90.0, 3e38, INF, NAN])
GATES: dict[str, Callable[..., Tensor]] = {
    "silu_mul": activation.silu_mul,
    "swiglu_clamped": activation.swiglu_clamped,
    "gelu_mul": activation.gelu_mul,
    "gelu_mul of tanh": partial(activation.gelu_mul, tanh=True),
    "gelu": activation.gelu,
    "gelu of tanh": partial(activation.gelu, tanh=True),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("up", [1.0, -1e38])
def test_gates_at_the_ends_of_the_line(isa: str, name: str, dtype: torch.dtype, up: float) -> None:
    """Minus infinity is NaN, as infinity times 0 is; nothing comes of gates that are merely low, whatever they gate."""
    gate = SPECIAL.repeat(7)[None]
    gate_up = torch.cat((gate, torch.full_like(gate, up)), 1).to(dtype)
    have, want = (GATES[name](gate_up, impl=impl) for impl in ("native", "reference"))
    torch.testing.assert_close(have, want, rtol=1e-2, atol=1e-6 * abs(up), equal_nan=True)
    assert have[0, 0].isnan()
    assert not have[0, 1:4].any()
    if up == 1.0:
        assert have[0, len(SPECIAL) - 2] > (13.5 if name == "swiglu_clamped" else 1e38)


def test_silu_of_any_size(isa: str) -> None:
    gate = torch.tensor([[-3e38, -1e30, -300.0, -88.5, -80.0, -1.0, 0.0, 88.0, 3e38, NAN] * 7])
    gate_up = torch.cat((gate, torch.ones_like(gate)), 1)
    have, want = (activation.silu_mul(gate_up, impl=impl) for impl in ("native", "reference"))
    torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-36, equal_nan=True)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_logit_of_nan_spoils_its_row_alone(isa: str, normalize: bool) -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    logits[1, 3] = NAN
    for impl in ("native", "reference"):
        softmax, _ = moe.route_softmax(logits, 4, normalize=normalize, impl=impl)
        sigmoid, _ = moe.route_sigmoid(logits, torch.zeros(20), 20, 1, 1, 1.0, normalize, impl=impl)
        for weights in (softmax, sigmoid):
            assert weights[1].isnan().any(), impl
            assert weights[[0, 2]].isfinite().all(), impl


@pytest.mark.parametrize("queries", [1, 20])
def test_a_key_of_nan_spoils_the_sums_that_it_spoils_the_outputs_of(isa: str, queries: int) -> None:
    generator = torch.Generator().manual_seed(2)
    k, v = torch.randn(6, 8, 1, 16, generator=generator), torch.randn(6, 8, 1, 16, generator=generator)
    k[3, 0] = NAN
    tables = torch.tensor([[3, 1, 0], [5, 2, 4]], dtype=torch.int32)
    lengths = torch.tensor([22, 24], dtype=torch.int32)
    cu_q = torch.tensor([0, queries, 2 * queries], dtype=torch.int32)
    q = torch.randn(2 * queries, 2, 16, generator=generator)
    out, lse = attention.prefill(q, k, v, cu_q, tables, lengths, 0.25, return_lse=True, impl="native")
    spoilt = torch.arange(2 * queries) < queries
    assert torch.equal(out.isnan().any(1), spoilt)
    assert torch.equal(lse.isnan().all(1), spoilt)


def test_a_convolution_passes_nan_on(isa: str) -> None:
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(3))
    x[2, 7] = NAN
    weight, states = torch.randn(24, 4, generator=torch.Generator().manual_seed(4)), torch.zeros(1, 3, 24)
    rows = (torch.tensor([0]), torch.tensor([0, 5], dtype=torch.int32))
    have = linear_attention.causal_conv(x, weight, states, *rows, impl="native")
    assert torch.equal(have.isnan().nonzero(), torch.tensor([[2, 7], [3, 7], [4, 7]]))


def routes(logits: Tensor, bias: Tensor, *groups: int, impl: str) -> list[tuple[Tensor, Tensor]]:
    """The choices of every router, normalised and not."""
    each = []
    for normalize in (True, False):
        each.append(moe.route_softmax(logits, 4, normalize=normalize, impl=impl))
        each.append(moe.route_sigmoid(logits, bias, 4, *groups, 1.5, normalize, impl=impl))
    return each


@pytest.mark.parametrize("groups", [(1, 1), (5, 2), (20, 7)])
def test_routers_agree_on_any_numbers(isa: str, groups: tuple[int, int]) -> None:
    """Experts too: NaN after all numbers, ties by id."""
    generator = torch.Generator().manual_seed(5)
    lines = torch.randn(60, 20, generator=generator)
    special = SPECIAL[torch.randint(len(SPECIAL), lines.shape, generator=generator)]
    shares = torch.tensor([0.03, 0.3, 1.0]).repeat(20)[:, None]
    logits = torch.where(torch.rand(lines.shape, generator=generator) < shares, special, lines)
    logits[0], logits[1], logits[2] = -INF, NAN, INF
    for bias in (torch.zeros(20), SPECIAL[torch.randint(len(SPECIAL), (20,), generator=generator)]):
        for have, want in zip(
            *(routes(logits, bias, *groups, impl=impl) for impl in ("native", "reference")), strict=True
        ):
            assert torch.equal(have[1], want[1])
            torch.testing.assert_close(have[0], want[0], rtol=1e-5, atol=1e-7, equal_nan=True)


def small_pages(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(k, v, tables, lengths) of two requests, of 22 and 24 keys."""
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(6, 8, 1, 16, generator=generator), torch.randn(6, 8, 1, 16, generator=generator)
    tables = torch.tensor([[3, 1, 0], [5, 2, 4]], dtype=torch.int32)
    return k, v, tables, torch.tensor([22, 24], dtype=torch.int32)


@pytest.mark.parametrize("queries", [1, 20])
def test_a_sink_may_be_infinite(each_kernel: str, queries: int) -> None:
    """+inf takes the whole softmax, -inf none of it; requests without keys stay without."""
    k, v, tables, lengths = small_pages(6)
    q = torch.randn(2 * queries, 3, 16, generator=torch.Generator().manual_seed(7))
    sinks = torch.tensor([INF, -INF, NAN])
    if queries == 1:
        lengths[1] = 0
        run = partial(attention.decode, q, k, v, tables, lengths)
    else:
        run = partial(attention.prefill, q, k, v, torch.tensor([0, queries, 2 * queries]).int(), tables, lengths)
    out, lse = run(0.25, sinks=sinks, return_lse=True, impl=each_kernel)
    plain, plain_lse = run(0.25, return_lse=True, impl=each_kernel)
    out, plain = out.view(-1, 3, 16), plain.view(-1, 3, 16)
    keys = torch.arange(2 * queries) < queries if queries == 1 else torch.ones(2 * queries, dtype=torch.bool)
    assert not out[:, 0].any()
    assert torch.equal(lse[:, 0], torch.where(keys, INF, -INF))
    assert torch.equal(out[:, 1], plain[:, 1])
    assert torch.equal(lse[:, 1], plain_lse[:, 1])
    assert torch.equal(out[:, 2].isnan().all(1), keys)
    assert torch.equal(lse[:, 2].isnan(), keys)


@pytest.mark.parametrize("soft_cap", [None, 5.0])
@pytest.mark.parametrize("queries", [1, 20])
def test_scores_may_be_infinite(isa: str, queries: int, soft_cap: float | None) -> None:
    """-inf is of no weight, +inf is more than a softmax can say: NaN. A cap makes numbers of both."""
    k, v, tables, lengths = small_pages(8)
    q = torch.randn(2 * queries, 3, 16, generator=torch.Generator().manual_seed(9)).abs()
    k[3, 2] = -INF
    k[5, 1, 0, 4] = INF
    k[2] = -INF
    cu_q = torch.tensor([0, queries, 2 * queries], dtype=torch.int32)
    (out, lse), (want, want_lse) = (
        attention.prefill(q, k, v, cu_q, tables, lengths, 0.25, soft_cap=soft_cap, return_lse=True, impl=impl)
        for impl in ("native", "reference")
    )
    assert torch.equal(want.isnan().any(1), torch.arange(2 * queries) >= (queries if soft_cap is None else 99))
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(lse, want_lse, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_latent_scores_may_be_infinite(isa: str) -> None:
    generator = torch.Generator().manual_seed(10)
    q_latent, q_rope = torch.rand(3, 2, 32, generator=generator), torch.rand(3, 2, 8, generator=generator)
    cache = torch.randn(6, 8, 40, generator=generator)
    cache[0, 1, 35], cache[3, 0, 36] = -INF, INF
    tables = torch.tensor([[0, 1], [2, 3], [4, 5]], dtype=torch.int32)
    lengths = torch.tensor([9, 11, 13], dtype=torch.int32)
    (have, lse), (want, want_lse) = (
        mla.decode_absorbed(q_latent, q_rope, cache, tables, lengths, 0.2, return_lse=True, impl=impl)
        for impl in ("native", "reference")
    )
    assert torch.equal(want.isnan().any(-1).any(-1), torch.tensor([False, True, False]))
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(lse, want_lse, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_parts_of_large_sums_are_weighed_as_those_of_small_ones_are(each_kernel: str) -> None:
    outs = torch.randn(3, 3, 2 * 8, generator=torch.Generator().manual_seed(11))
    lses = torch.tensor([[1e20, -1e20, 1e20], [1e20, -1e20, 3e38], [-1e20, -1e20, -3e38]])
    out, lse = attention.merge(outs, lses[..., None].repeat(1, 1, 2), impl=each_kernel)
    torch.testing.assert_close(out[0], (outs[0, 0] + outs[1, 0]) / 2)
    torch.testing.assert_close(out[1], outs[:, 1].mean(0))
    torch.testing.assert_close(out[2], outs[1, 2])
    assert torch.allclose(lse[:, 0], torch.tensor([1e20, -1e20, 3e38]))


@pytest.mark.parametrize("queries", [1, 4, 20])
def test_what_is_not_seen_has_no_weight_however_low_the_scores(isa: str, queries: int) -> None:
    """Of scores of -inf alone comes zero (NaN in latent attention), and nothing of the keys behind a query."""
    k, v, tables, lengths = small_pages(12)
    k[tables[0, 2], 3] = k[tables[0, 2], 4] = k[tables[0, 2], 5] = -INF  # the last keys that the first row sees
    q = torch.rand(2 * queries, 3, 16, generator=torch.Generator().manual_seed(13))
    cu_q = torch.tensor([0, queries, 2 * queries], dtype=torch.int32)
    for window in (1, 2, None):
        (out, lse), (want, want_lse) = (
            attention.prefill(q, k, v, cu_q, tables, lengths, 0.25, window=window, return_lse=True, impl=impl)
            for impl in ("native", "reference")
        )
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse, want_lse, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(14)
    latents, cache = torch.rand(8, 2, 40, generator=generator), torch.randn(6, 8, 40, generator=generator)
    cache[3, :5, 35] = -INF
    have, want = (
        mla.decode_absorbed(
            latents[..., :32], latents[..., 32:], cache, tables, torch.tensor([7, 7]).int(), 0.2, q_len=4, impl=impl
        )
        for impl in ("native", "reference")
    )
    assert want.isnan().any(-1).any(-1).tolist() == [True, True, False, False] + [False] * 4
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5, equal_nan=True)
