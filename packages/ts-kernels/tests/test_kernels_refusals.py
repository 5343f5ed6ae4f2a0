"""Wrong arguments of sampling and linear attention: each error names the argument and what was expected of it."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import (
    ContractError,
    activation,
    attention,
    linear_attention,
    mla,
    moe,
    norm,
    platform,
    rope,
    sampling,
)
from ts_kernels.selection import OPERATIONS

META = torch.device("meta")
KV_B = mla.prepare_kv_b(torch.zeros(2 * 8, 8), 2, 4, 4, keep_source=True)
CASES: list[tuple[Callable[..., object], list[Any], int, Any, str]] = []


def f32(*shape: int) -> Tensor:
    return torch.zeros(shape)


def i16(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int16)


def i32(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def i64(*shape: int) -> Tensor:
    return torch.arange(shape[0])


def count(*arguments: Tensor) -> None:
    sampling.count_tokens(*arguments, prompt=False)


def wrong(call: Callable[..., object], good: list[Any], *changes: tuple[int, Any, str]) -> None:
    CASES.extend((call, good, place, value, message) for place, value, message in changes)


wrong(
    sampling.argmax,
    [f32(2, 8)],
    (0, f32(8), r"logits must be \[B, V\]"),
    (0, f32(2, 0), r"logits must be \[B, V\] with V at least 1"),
    (0, f32(2, 8).half(), "logits must be float32 or bfloat16"),
)
wrong(
    count,
    [i16(3, 8), i64(2), i32(2, 5)],
    (0, i32(3, 8), "counts must be int16"),
    (0, i16(8, 3).t(), "counts must be contiguous"),
    (1, i32(2), "slots must be int64"),
    (2, i32(3, 5), r"tokens must be \[2, N\]"),
)
wrong(
    sampling.apply_penalties,
    [f32(2, 8), i16(3, 8), i64(2), f32(2), f32(2), f32(2)],
    (0, f32(2, 8).bfloat16(), "logits must be float32"),
    (0, f32(8, 2).t(), "logits must be contiguous in its last dimension"),
    (1, i16(3, 7), r"counts must be \[S, 8\]"),
    (2, i64(3), r"slots must be \[2\]"),
    (3, f32(3), r"repetition must be \[2\]"),
    (5, f32(2).double(), "frequency must be float32"),
)
wrong(
    sampling.apply_bias,
    [f32(2, 8), i32(3), torch.arange(3).int(), f32(3)],
    (1, i64(3), "rows must be int32"),
    (2, i32(4), r"tokens must be \[3\]"),
    (3, torch.zeros(3, device=META), "values must be on cpu like the first argument"),
)
wrong(
    sampling.apply_mask,
    [f32(2, 33), i32(2, 2), i64(2)],
    (1, i32(2, 1), r"mask must be \[M, 2\]"),
    (1, i32(2, 4)[:, ::2], "mask must be contiguous"),
    (2, i32(2), "rows must be int64"),
)
wrong(sampling.apply_mask, [f32(2, 33), i32(2, 2)], (1, i32(3, 2), r"mask must be \[2, 2\]"))
wrong(
    sampling.logprobs,
    [f32(2, 8), i32(2), 3],
    (1, i64(2), "tokens must be int32"),
    (2, 9, "n must be from 0 to V = 8, got 9"),
    (2, -1, "n must be from 0"),
)
DRAW = [f32(2), i32(2), f32(2), i64(2), i64(2)]
wrong(
    sampling.verify,
    [f32(2, 4, 8), i32(2, 3), i32(2), f32(2, 3, 8), *DRAW],
    (0, f32(2, 8), r"logits must be \[B, K\+1, V\]"),
    (0, f32(2, 1, 8), "with K and V at least 1"),
    (0, f32(4, 2, 8).transpose(0, 1), "logits must be contiguous"),
    (1, i32(2, 4), r"drafts must be \[2, 3\]"),
    (2, i64(2), "counts must be int32"),
    (3, f32(2, 3, 7), r"draft_probs must be \[2, 3, 8\]"),
    (4, f32(3), r"temperature must be \[2\]"),
    (8, i32(2), "positions must be int64"),
)
wrong(
    lambda low: sampling.sample(f32(2, 8), *DRAW, min_p=low),
    [f32(2)],
    (0, f32(3), r"min_p must be \[2\]"),
    (0, i32(2), "min_p must be float32"),
)
NOTHING = r"x must be \[T, D\] with D at least 1"
wrong(lambda x: norm.rms_norm(x, x[0], 1e-5), [f32(2, 8)], (0, f32(2, 0), NOTHING))
wrong(lambda x: norm.add_rms_norm(x, x.clone(), x[0], 1e-5), [f32(2, 8)], (0, f32(2, 0), NOTHING))
wrong(lambda x: norm.layer_norm(x, x[0], x[0], 1e-5), [f32(2, 8)], (0, f32(2, 0), NOTHING))
LAYER = moe.prepare_experts(f32(2, 16, 8), f32(2, 8, 8), keep_source=True)
wrong(
    lambda chosen: moe.experts(f32(2, 8), chosen.float(), chosen, LAYER),
    [i32(2, 1)],
    (0, i32(2, 0), r"weights must be \[T, k\] with k at least 1"),
)
SPANS = torch.tensor([0, 3, 5], dtype=torch.int32)
wrong(
    linear_attention.causal_conv,
    [f32(5, 8), f32(8, 4), f32(3, 3, 8), i64(2), SPANS, torch.tensor([True, False])],
    (0, f32(8), r"x must be \[T, C\]"),
    (1, f32(7, 4), r"weight must be \[8, W\]"),
    (1, f32(8, 1), "W at least 2"),
    (2, f32(3, 4, 8), r"states must be \[S, 3, 8\]"),
    (2, f32(3, 3, 8).bfloat16(), "states must be float32"),
    (2, f32(3, 8, 3).transpose(1, 2), "states must be contiguous"),
    (3, i64(3), r"slots must be \[2\]"),
    (4, SPANS.long(), "cu_q must be int32"),
    (5, i32(2), "fresh must be bool"),
)
wrong(
    linear_attention.causal_conv_step,
    [f32(2, 8), f32(8, 4), f32(3, 3, 8), i64(2)],
    (0, f32(3, 8), r"slots must be \[3\]"),
)
DELTA = [f32(5, 2, 16), f32(5, 2, 16), f32(5, 4, 8), f32(5, 4), f32(5, 4), f32(4), f32(4), f32(3, 4, 16, 8), i64(2)]
wrong(
    linear_attention.gated_delta,
    [*DELTA, SPANS],
    (0, f32(5, 16), r"q must be \[T, H, K\]"),
    (1, f32(5, 2, 15), r"k must be \[5, 2, 16\]"),
    (1, f32(5, 2, 16).bfloat16(), "k must be float32"),
    (2, f32(5, 3, 8), "v must be .* G a multiple of H = 2"),
    (3, f32(5, 2), r"a must be \[5, 4\]"),
    (4, f32(5, 4).bfloat16(), "b must be float32"),
    (5, f32(4).bfloat16(), "a_log must be float32"),
    (7, f32(3, 4, 8, 16), r"states must be \[S, 4, 16, 8\]"),
    (8, i64(3), r"slots must be \[2\]"),
    (9, torch.zeros(4, dtype=torch.int32), r"slots must be \[3\]"),
)
wrong(
    linear_attention.gated_rms_norm,
    [f32(5, 8), f32(5, 8), f32(8), 1e-6],
    (1, f32(4, 8), r"z must be \[5, 8\]"),
    (1, f32(5, 8).bfloat16(), "z must be float32"),
    (2, f32(7), r"weight must be \[8\]"),
)
wrong(
    linear_attention.copy_states,
    [f32(4, 3, 8), f32(4, 3, 8), torch.tensor([0, 1]), torch.tensor([2, 3])],
    (0, f32(4), r"source must be \[S, ...\]"),
    (1, f32(4, 3, 7), r"target must be \[S, 3, 8\]"),
    (1, f32(4, 8, 3).transpose(1, 2), "target must be contiguous"),
    (2, i32(2), "from_slots must be int64"),
    (3, i64(3), r"to_slots must be \[2\]"),
)


@pytest.mark.parametrize(("call", "good", "place", "value", "message"), CASES)
def test_wrong_argument(call: Callable[..., object], good: list[Any], place: int, value: object, message: str) -> None:
    call(*good)
    bad = [*good]
    bad[place] = value
    with pytest.raises(ContractError, match=message):
        call(*bad)


def paged(*cu_q: int) -> list[Any]:
    """attention.prefill of five tokens in two rows."""
    cache, tables = torch.zeros(4, 4, 1, 4), torch.tensor([[0, 1], [2, 3]]).int()
    return [f32(5, 1, 4), cache, cache.clone(), torch.tensor(cu_q).int(), tables, torch.tensor([4, 5]).int(), 0.5]


def latent(*lengths: int) -> list[Any]:
    """mla.prefill of five tokens in two rows."""
    cache, tables = torch.zeros(4, 4, 10), torch.tensor([[0, 1], [2, 3]]).int()
    lengths_ = torch.tensor(lengths).int()
    return [f32(5, 2, 6), cache, KV_B, torch.tensor([0, 2, 5]).int(), tables, lengths_, 0.5]


@pytest.mark.parametrize("cu_q", [(0, 2, 2), (0, 3, 1), (2, 3, 5), (0, 6, 5)])
def test_debug_mode_holds_cu_q_to_the_tokens(debug: None, cu_q: tuple[int, ...]) -> None:
    attention.prefill(*paged(0, 2, 5), impl="reference")
    with pytest.raises(ContractError, match=r"attention.prefill: cu_q must be from 0 to 5 without a fall, got \["):
        attention.prefill(*paged(*cu_q), impl="reference")
    arguments = latent(4, 5)
    arguments[3] = torch.tensor(cu_q).int()
    with pytest.raises(ContractError, match=r"mla.prefill: cu_q must be from 0 to 5"):
        mla.prefill(*arguments, impl="reference")


def test_debug_mode_holds_lengths_to_the_queries(debug: None) -> None:
    mla.prefill(*latent(2, 3), impl="reference")
    with pytest.raises(ContractError, match=r"seq_lens\[1\] must be at least 3, the row's queries, got 2"):
        mla.prefill(*latent(2, 2), impl="reference")


def test_padding_may_be_any_negative_number(debug: None) -> None:
    slots, counts = torch.tensor([torch.iinfo(torch.int64).min, 1]), i16(3, 8)
    sampling.count_tokens(counts, slots, i32(2, 2), prompt=False, impl="reference")
    assert counts[1, 0] == counts.sum() == 2


HUGE = 10**400


@pytest.mark.parametrize("impl", [None, "reference"])
@pytest.mark.parametrize("number", [HUGE, 10**39, 1e39, -HUGE], ids=["huge", "whole", "float", "negative"])
def test_numbers_outside_of_fp32_are_named(impl: str | None, number: float) -> None:
    for call, argument in (
        (lambda: norm.rms_norm(f32(2, 8), f32(8), number, impl=impl), "eps"),
        (lambda: norm.layer_norm(f32(2, 8), f32(8), f32(8), number, impl=impl), "eps"),
        (lambda: moe.route_softmax(f32(2, 8), 2, scale=number, normalize=True, impl=impl), "scale"),
        (lambda: rope.cos_sin(8, 4, number), "theta"),
        (lambda: attention.decode(*paged(0, 2, 5)[:3], *paged()[4:6], number, impl=impl), "scale"),
    ):
        with pytest.raises(ContractError) as caught:
            call()
        assert caught.value.argument == argument


@pytest.mark.parametrize("impl", [None, "reference"])
def test_a_limit_outside_of_fp32_is_none(impl: str | None) -> None:
    x = torch.tensor([[1e30, 2.0]])
    want = activation.swiglu_clamped(x, limit=float("inf"), impl=impl)
    for limit in (1e39, 10**39, HUGE):
        assert torch.equal(activation.swiglu_clamped(x, limit=limit, impl=impl), want)
        assert activation.Gated("swiglu_clamped", limit=limit).limit == float("inf")


def test_what_does_not_fit_together_is_named() -> None:
    with pytest.raises(ContractError, match=r"slots must be \[B\]"):
        sampling.count_tokens(i16(2, 5), torch.tensor(0), i32(2), prompt=True)
    for sections in ((2.0, 1.0, 1.0), ("a", "b", "c"), (1, 1), 4):
        with pytest.raises(ContractError, match="sections must be"):
            rope.apply_multimodal(f32(2, 1, 8), f32(4, 8), i64(6).view(3, 2) % 4, sections)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="mscale must be such that the table's magnitude is finite"):
        rope.yarn_cos_sin(8, 4, 1e4, 4.0, 2, 32.0, 1.0, 3e38, -7.0)
    with warnings.catch_warnings(action="ignore"):  # of a prototype
        nested = torch.nested.nested_tensor([torch.ones(2)])
    with pytest.raises(ContractError, match="x must be a tensor, got nested float32"):
        norm.rms_norm(nested, f32(2), 0.0)


def test_an_expert_may_have_any_number() -> None:
    values, ids = torch.ones(2, 3, 4), torch.full((2, 3), 2**31 - 1).int()
    for impl in (None, "reference"):
        assert (moe.combine(values, torch.ones(2, 3), ids, 2**31, impl=impl) == 3).all()


OUT_OF_RANGE: list[tuple[Callable[..., object], list[Any], str]] = [
    (count, [i16(3, 8), torch.tensor([3]), i32(1, 2)], "slots must be below 3"),
    (count, [i16(3, 8), i64(1), i32(1, 2) + 8], "tokens must be below 8"),
    (sampling.apply_bias, [f32(2, 8), i32(1) + 2, i32(1), f32(1)], "rows must be below 2"),
    (sampling.apply_bias, [f32(2, 8), i32(1), i32(1) - 1, f32(1)], r"tokens must be in \[0, 8\)"),
    (sampling.apply_mask, [f32(1, 8), i32(2, 1), torch.tensor([2])], "rows must be below 2"),
    (sampling.logprobs, [f32(1, 8), i32(1) + 8, 1], "tokens must be below 8"),
    (
        sampling.verify,
        [f32(1, 2, 8), i32(1, 1), i32(1) + 2, None, *(t[:1] for t in DRAW)],
        r"counts must be in .*, 2",
    ),
    (
        linear_attention.causal_conv_step,
        [f32(1, 8), f32(8, 4), f32(3, 3, 8), torch.tensor([3])],
        "slots must be below 3",
    ),
    (linear_attention.gated_delta, [*DELTA, torch.tensor([0, 4, 4]).int()], "cu_q must be from 0 to 5 without a fall"),
    (linear_attention.gated_delta, [*DELTA, torch.tensor([0, 6, 5]).int()], "cu_q must be from 0 to 5 without a fall"),
    (
        linear_attention.copy_states,
        [f32(2, 8), f32(3, 8), torch.tensor([1]), torch.tensor([3])],
        "to_slots must be below 3",
    ),
]


@pytest.mark.parametrize(("call", "arguments", "message"), OUT_OF_RANGE)
def test_debug_mode_reads_values(debug: None, call: Callable[..., object], arguments: list[Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        call(*arguments)


@pytest.mark.skipif(platform.native_error() is not None, reason="native kernels are not built")
@pytest.mark.parametrize(("call", "arguments", "message"), OUT_OF_RANGE)
def test_native_kernels_check_what_they_follow(call: Callable[..., object], arguments: list[Any], message: str) -> None:
    argument = message.partition(" ")[0]
    for _ in range(2):  # through the checks, and by the shortcut that the first call left
        with pytest.raises(ContractError, match=rf"^[a-z_]+\.[a-z_]+: {argument} must be .*, got ") as caught:
            call(*arguments)
        assert caught.value.argument == argument
        assert caught.value.operation in OPERATIONS
