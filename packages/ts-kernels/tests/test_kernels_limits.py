"""Sizes that ``ts-kernels explain`` refuses are those that the public functions refuse, operation by operation."""
# ruff: noqa: E741  (I is an intermediate width)

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import (
    ContractError,
    activation,
    attention,
    cli,
    gemm,
    kv_cache,
    linear_attention,
    mla,
    moe,
    norm,
    quantize,
    rope,
    sampling,
)
from ts_kernels.explain_command import _usual
from ts_kernels.selection import OPERATIONS


def x(*sizes: int) -> Tensor:
    return torch.ones(sizes)


def ints(*sizes: int) -> Tensor:
    return torch.zeros(sizes, dtype=torch.int32)


def longs(*sizes: int) -> Tensor:
    return torch.zeros(sizes, dtype=torch.int64)


ROWS, SPAN = (ints(1, 16), ints(1) + 9), torch.tensor([0, 1], dtype=torch.int32)  # 16 pages, 9 keys; one token
DRAW = (x(1), ints(1), x(1), longs(1), longs(1))


def paged(s: dict[str, int]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    caches = (x(1, s["page_size"], s["H_kv"], width) for width in (s["D"], s["V"]))
    sinks = x(s["H"]) if s["sinks"] else None
    return (x(1, s["H"], s["D"]), *caches), {"window": s["window"], "soft_cap": float(s["soft_cap"]), "sinks": sinks}


def decode(**s: int) -> object:
    tensors, options = paged(s)
    return attention.decode(*tensors, *ROWS, 1.0, **options)


def prefill(**s: int) -> object:
    tensors, options = paged(s)
    return attention.prefill(*tensors, SPAN, *ROWS, 1.0, **options)


def latent(H: int, N: int, R: int, V: int, L: int, page_size: int, tokens: int = 1) -> tuple[Any, ...]:
    return x(tokens, H, N + R), x(1, page_size, L + R), mla.prepare_kv_b(x(H * (N + V), L), H, N, V)


def absorbed(H: int, R: int, L: int, page_size: int, q_len: int) -> object:
    queries = x(q_len or 1, H, L), x(q_len or 1, H, R)
    return mla.decode_absorbed(*queries, x(1, page_size, L + R), *ROWS, 1.0, q_len=q_len)


def delta(H: int, G: int, K: int, V: int) -> tuple[Tensor, ...]:
    return x(1, H, K), x(1, H, K), x(1, G, V), x(1, G), x(1, G), x(G), x(G), x(1, G, K, V), longs(1)


def conv(C: int, W: int) -> tuple[Tensor, ...]:
    return x(1, C), x(C, W), x(1, max(W - 1, 0), C), longs(1)


def experts(E: int, D: int, I: int) -> object:
    return moe.experts(x(1, D), x(1, 1), ints(1, 1), moe.prepare_experts(x(E, 2 * I, D), x(E, D, I)))


def write_kv(H_kv: int, D: int, V: int) -> None:
    kv_cache.write_kv(x(1, H_kv, D), x(1, H_kv, V), longs(1), x(1, 4, H_kv, D), x(1, 4, H_kv, V))


def write_latent(L: int, R: int) -> None:
    kv_cache.write_latent(x(1, L + R), x(L), 1e-5, x(4, R), longs(1), longs(1), x(1, 4, L + R))


# Sizes to a call of these sizes.
CALLS: dict[str, Callable[..., object]] = {
    "activation.gelu": lambda D: activation.gelu(x(1, D)),
    "activation.gelu_mul": lambda I: activation.gelu_mul(x(1, 2 * I)),
    "activation.silu_mul": lambda I: activation.silu_mul(x(1, 2 * I)),
    "activation.swiglu_clamped": lambda I: activation.swiglu_clamped(x(1, 2 * I)),
    "attention.decode": decode,
    "attention.merge": lambda H, V: attention.merge(x(2, 1, H * V), x(2, 1, H)),
    "attention.prefill": prefill,
    "gemm.gather_rows": lambda D: gemm.gather_rows(x(4, D), longs(1)),
    "gemm.linear": lambda N, K: gemm.linear(x(1, K), gemm.prepare(x(N, K))),
    "gemm.mlp": lambda D, I: gemm.mlp(x(1, D), gemm.prepare_mlp(x(2 * I, D), x(D, I))),
    "kv_cache.copy_pages": lambda bytes: kv_cache.copy_pages(*[ints(1, bytes).byte()] * 2, longs(1), longs(1)),
    "kv_cache.write_kv": write_kv,
    "kv_cache.write_latent": write_latent,
    "linear_attention.causal_conv": lambda **s: linear_attention.causal_conv(*conv(**s), SPAN),
    "linear_attention.causal_conv_step": lambda **s: linear_attention.causal_conv_step(*conv(**s)),
    "linear_attention.copy_states": lambda: linear_attention.copy_states(x(2, 3), x(2, 3), longs(1), longs(1)),
    "linear_attention.gated_delta": lambda **s: linear_attention.gated_delta(*delta(**s), SPAN),
    "linear_attention.gated_delta_step": lambda **s: linear_attention.gated_delta_step(*delta(**s)),
    "linear_attention.gated_rms_norm": lambda D: linear_attention.gated_rms_norm(x(1, D), x(1, D), x(D), 1e-5),
    "mla.decode": lambda q_len, **s: mla.decode(*latent(**s, tokens=q_len or 1), *ROWS, 1.0, q_len=q_len),
    "mla.decode_absorbed": absorbed,
    "mla.prefill": lambda **s: mla.prefill(*latent(**s), SPAN, *ROWS, 1.0),
    "moe.combine": lambda D: moe.combine(x(1, 1, D), x(1, 1), ints(1, 1), 1),
    "moe.experts": experts,
    "moe.grouped_linear": lambda E, N, K: moe.grouped_linear(x(1, K), ints(1, 1), x(E, N, K)),
    "moe.permute": lambda E: moe.permute(ints(1, 1), E),
    "moe.route_sigmoid": lambda E, k: moe.route_sigmoid(x(1, E), x(E), k, 1, 1, 1.0, True),
    "moe.route_softmax": lambda E, k: moe.route_softmax(x(1, E), k, normalize=True),
    "norm.add_rms_norm": lambda D: norm.add_rms_norm(x(1, D), x(1, D), x(D), 1e-5),
    "norm.layer_norm": lambda D: norm.layer_norm(x(1, D), x(D), x(D), 1e-5),
    "norm.rms_norm": lambda D: norm.rms_norm(x(1, D), x(D), 1e-5),
    "quantize.fp8_per_group": lambda D: quantize.fp8_per_group(x(1, D)),
    "quantize.fp8_per_token": lambda D: quantize.fp8_per_token(x(1, D)),
    "rope.apply_2d": lambda H, D, R: rope.apply_2d(x(1, H, D), x(4, R // 2), longs(2, 1)),
    "rope.apply_halves": lambda H, D, R: rope.apply_halves(x(1, H, D), x(4, R), longs(1)),
    "rope.apply_interleaved": lambda H, D, R: rope.apply_interleaved(x(1, H, D), x(4, R), longs(1)),
    "rope.apply_multimodal": lambda H, D, R: rope.apply_multimodal(x(1, H, D), x(4, R), longs(3, 1), (R // 2, 0, 0)),
    "sampling.apply_bias": lambda V: sampling.apply_bias(x(1, V), ints(1), ints(1), x(1)),
    "sampling.apply_mask": lambda V: sampling.apply_mask(x(1, V), ints(1, -(-V // 32))),
    "sampling.apply_penalties": lambda V: sampling.apply_penalties(x(1, V), ints(1, V).short(), longs(1), *[x(1)] * 3),
    "sampling.argmax": lambda V: sampling.argmax(x(1, V)),
    "sampling.count_tokens": lambda V: sampling.count_tokens(
        ints(1, V).short(), longs(1), ints(1, 1) - 1, prompt=False
    ),
    "sampling.logprobs": lambda V, n: sampling.logprobs(x(1, V), ints(1), n),
    "sampling.sample": lambda V: sampling.sample(x(1, V), *DRAW),
    "sampling.verify": lambda V, K: sampling.verify(x(1, K + 1, V), ints(1, K), ints(1), None, *DRAW),
}


def refused(operation: str, sizes: dict[str, int]) -> bool:
    try:
        CALLS[operation](**sizes)
    except ContractError:
        return True
    return False


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_explain_refuses_the_sizes_that_a_call_refuses(operation: str) -> None:
    info = OPERATIONS[operation].info
    usual = {name: _usual(operation, name) for name in info.dims}
    numbers = (0, 1, 2, 3, 8, 9, *((65536, 65537) if operation == "moe.permute" else ()))
    named = [name for name in info.dims if name not in ("soft_cap", "sinks")]  # a call has these or not: 1 or 0
    tried = [usual, *({**usual, name: number} for name in named for number in numbers)]
    if operation.startswith("rope"):
        tried += [{**usual, "D": size, "R": size} for size in (5, 6, 8)]
    for sizes in tried:
        assert bool(info.refusals(sizes)) == refused(operation, sizes), sizes


@pytest.mark.parametrize(
    ("operation", "shape", "message"),
    [
        ("norm.rms_norm", "D=0", "no call of norm.rms_norm is like that: D must be at least 1"),
        ("attention.decode", "H=0", "H must be at least 1; sizes left out are a small model's"),
        ("attention.prefill", "H=3", "needs H a multiple of H_kv, given H=3, H_kv=2, "),
        ("attention.decode", "soft_cap=2", "needs soft_cap at most 1, given "),
        ("linear_attention.gated_delta", "H=3,G=4", "needs G a multiple of H, given H=3, G=4, "),
        ("mla.decode", "q_len=9", "needs q_len at most 8, given "),
        ("mla.decode_absorbed", "q_len=0", "q_len must be at least 1"),
        ("moe.permute", "E=65537", "needs E at most 65536, given E=65537"),
    ],
)
def test_what_explain_says_of_sizes(
    capsys: pytest.CaptureFixture[str], operation: str, shape: str, message: str
) -> None:
    assert cli.main(["explain", operation, "--shape", shape]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_zero_is_a_size_where_a_call_takes_it() -> None:
    assert cli.main(["explain", "attention.decode", "--shape", "window=0,sinks=0,soft_cap=1"]) == 0
    assert cli.main(["explain", "sampling.logprobs", "--shape", "n=0"]) == 0
    assert cli.main(["explain", "activation.silu_mul", "--shape", "I=0"]) == 0
