"""Numbers beside the tensors: scales and epsilons that are not finite, sizes of nothing, lengths told twice."""

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from torch import Tensor
from ts_kernels import (
    ContractError,
    activation,
    attention,
    gemm,
    kv_cache,
    linear_attention,
    mla,
    moe,
    norm,
    quantize,
    rope,
)

X, W = torch.ones(2, 8), torch.ones(8)
NONE = torch.zeros(2, dtype=torch.int64)
KV_B = mla.prepare_kv_b(torch.ones(40, 32), 2, 8, 12)
CACHE, PAGES, LENGTHS = torch.ones(3, 4, 40), torch.zeros(2, 2, dtype=torch.int32), torch.tensor([1, 2]).int()
Q, CU_Q = torch.ones(2, 2, 16), torch.tensor([0, 1, 2], dtype=torch.int32)
STATE = (torch.ones(2, 4), torch.ones(2, 4), torch.ones(4), torch.ones(4), torch.ones(3, 4, 16, 8), torch.arange(2))
HEADS = (torch.ones(2, 2, 16), torch.ones(2, 2, 16), torch.ones(2, 4, 8))


def write_latent(eps: float = 1e-5, table: Tensor | None = None, gain: Tensor | None = None) -> None:
    kv_a, table = torch.ones(2, 40), torch.ones(9, 8) if table is None else table
    gain = torch.ones(32) if gain is None else gain
    kv_cache.write_latent(kv_a, gain, eps, table, NONE, torch.arange(2), CACHE.clone())


def absorbed(scale: float) -> None:
    mla.decode_absorbed(torch.ones(2, 2, 32), torch.ones(2, 2, 8), CACHE, PAGES, LENGTHS, scale)


SCALES: dict[str, tuple[Callable[[float], object], str]] = {
    "mla.decode": (lambda n: mla.decode(Q, CACHE, KV_B, PAGES, LENGTHS, n), "scale must be finite"),
    "mla.decode_absorbed": (absorbed, "scale must be finite"),
    "mla.prefill": (lambda n: mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS, n), "scale must be finite"),
    "gated_delta": (
        lambda n: linear_attention.gated_delta(*HEADS, *STATE, CU_Q, scale=n),
        "scale must be finite",
    ),
    "gated_delta_step": (lambda n: linear_attention.gated_delta_step(*HEADS, *STATE, scale=n), "scale must be finite"),
    "route_sigmoid": (lambda n: moe.route_sigmoid(X, W, 2, 1, 1, n, True), "scale must be finite"),
    "route_softmax": (lambda n: moe.route_softmax(X, 2, normalize=True, scale=n), "scale must be finite"),
    "swiglu_clamped": (lambda n: activation.swiglu_clamped(X, alpha=n), "alpha must be finite"),
    "Gated": (lambda n: activation.Gated(alpha=n), "alpha must be finite"),
}
EPSILONS: dict[str, Callable[[float], object]] = {
    "rms_norm": lambda n: norm.rms_norm(X, W, n),
    "add_rms_norm": lambda n: norm.add_rms_norm(X, X.clone(), W, n),
    "layer_norm": lambda n: norm.layer_norm(X, W, W, n),
    "gated_rms_norm": lambda n: linear_attention.gated_rms_norm(X, X, W, n),
    "write_latent": write_latent,
}


@pytest.mark.parametrize(("call", "message"), SCALES.values(), ids=SCALES)
def test_scales_are_finite(call: Callable[[float], object], message: str) -> None:
    call(0.5)  # which also leaves a shortcut behind, where there is one
    for wrong in (nan, inf, -inf):
        with pytest.raises(ContractError, match=message):
            call(wrong)


@pytest.mark.parametrize("call", EPSILONS.values(), ids=EPSILONS)
def test_epsilons_are_finite_and_not_negative(call: Callable[[float], object]) -> None:
    call(0.0)
    for wrong in (nan, inf, -1e-6):
        with pytest.raises(ContractError, match="eps must be finite and at least 0"):
            call(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gemm.prepare(torch.ones(0, 8)), r"weight must be \[N, K\] with N and K at least 1"),
        (lambda: gemm.linear(X[:, :0], torch.ones(3, 0)), r"weight must be \[N, K\] with N and K at least 1"),
        (lambda: gemm.linear(X, torch.ones(8)), r"weight must be \[N, K\] with N and K at least 1, got float32 \[8\]"),
        (lambda: gemm.gather_rows(torch.ones(3, 0), NONE), r"table must be \[V, D\] with D at least 1"),
        (lambda: rope.apply_interleaved(Q, torch.ones(9, 5), NONE), "cos_sin must be of an even number of columns"),
        (lambda: rope.apply_interleaved(Q, torch.ones(9, 18), NONE), "cos_sin must be at most 16 columns"),
        (lambda: write_latent(table=torch.ones(9, 7)), "cos_sin must be of an even number of columns"),
        (lambda: write_latent(gain=torch.ones(0)), r"norm_weight must be \[L\] with L at least 1"),
        (
            lambda: mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS, 0.5, host_seq_lens=[1]),
            r"host_seq_lens must be 2 lengths, got \[1\]",
        ),
        (lambda: mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS[0], 0.5), r"seq_lens must be \[B\]"),
        (lambda: quantize.quantize_int4(torch.ones(0, 4, 32)), "weight must be .* with no size 0"),
    ],
)
def test_sizes_of_nothing(call: Callable[[], object], message: str) -> None:
    for _ in range(2):
        with pytest.raises(ContractError, match=message):
            call()


def test_lengths_told_twice_agree(debug: None) -> None:
    mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS, 0.5, host_seq_lens=[1, 2])
    with pytest.raises(ContractError, match=r"host_seq_lens must be equal to seq_lens, \[1, 2\], got \[1, 3\]"):
        mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS, 0.5, host_seq_lens=[1, 3])


PAGED = (torch.ones(2, 2, 16), torch.ones(3, 4, 2, 16), torch.ones(3, 4, 2, 16))


@pytest.mark.parametrize(
    "call",
    [
        absorbed,
        lambda n: mla.decode(Q, CACHE, KV_B, PAGES, LENGTHS, n),
        lambda n: mla.prefill(Q, CACHE, KV_B, CU_Q, PAGES, LENGTHS, n),
        lambda n: attention.decode(*PAGED, PAGES, LENGTHS, n),
        lambda n: attention.prefill(*PAGED, CU_Q, PAGES, LENGTHS, n),
    ],
)
def test_scales_of_scores_leave_room(call: Callable[[float], object]) -> None:
    call(-1e20)
    for wrong in (1.1e20, -1e38):
        with pytest.raises(ContractError, match=r"scale must be finite, of magnitude at most 1e\+20"):
            call(wrong)
