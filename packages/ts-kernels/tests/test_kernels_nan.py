"""Numbers that are none, or too large: native kernels pass them on like the reference, and never make sense of them."""

import pytest
import torch
from ts_kernels import activation, attention, linear_attention, moe

NAN = float("nan")


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
