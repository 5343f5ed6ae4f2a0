"""Wrong arguments: each error names the argument, what was expected and what was given. Empty batches are fine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, activation, gemm, kv_cache, mla, moe, norm, quantize, rope, sampling


def f32(*shape: int) -> Tensor:
    return torch.zeros(shape)


def i32(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def i64(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


META = torch.device("meta")
KV_B = mla.prepare_kv_b(torch.zeros(4 * 64, 64), 4, 32, 32)
INT4_EXPERTS = moe.quantize_int4(torch.zeros(3, 64, 32))
EXPERTS = moe.prepare_experts(torch.zeros(3, 64, 32), torch.zeros(3, 32, 32))
CASES: list[tuple[Callable[..., object], list[Any], int, Any, str]] = []


def wrong(call: Callable[..., object], good: list[Any], *changes: tuple[int, Any, str]) -> None:
    CASES.extend((call, good, place, value, message) for place, value, message in changes)


wrong(
    norm.rms_norm,
    [f32(2, 8), f32(8), 1e-5],
    (0, f32(8), r"norm\.rms_norm: x must be \[T, D\], got float32 \[8\] on cpu"),
    (1, f32(7), r"weight must be \[8\], got float32 \[7\] on cpu"),
    (1, torch.zeros(8, device=META), "weight must be on cpu"),
)
wrong(
    norm.add_rms_norm,
    [f32(2, 8), f32(2, 8), f32(8), 1e-5],
    (1, f32(3, 8), r"residual must be \[2, 8\]"),
    (1, f32(2, 8).bfloat16(), "residual must be float32, got bfloat16"),
    (1, f32(8, 2).t(), r"residual must be contiguous, got float32 \[2, 8\] on cpu with strides \[1, 2\]"),
    (2, f32(1, 8), r"weight must be \[8\]"),
)
wrong(
    rope.apply_interleaved,
    [f32(2, 3, 8), f32(9, 4), i64(2)],
    (0, f32(2, 8), r"x must be \[T, H, D\]"),
    (1, f32(9, 10), "cos_sin must be at most 8 columns"),
    (1, f32(9, 4).double(), "cos_sin must be float32"),
    (2, i64(3), r"positions must be \[2\]"),
    (2, i32(2), "positions must be int64"),
)
wrong(activation.silu_mul, [f32(2, 8)], (0, f32(2, 7), r"gate_up must be \[T, 2I\]"), (0, f32(8), "gate_up"))
wrong(
    activation.swiglu_clamped,
    [f32(2, 8)],
    (0, f32(2, 7), r"swiglu_clamped: gate_up must be \[T, 2I\]"),
    (0, f32(2, 8).half(), "gate_up must be float32 or bfloat16"),
)
wrong(activation.gelu_mul, [f32(2, 8)], (0, f32(8), r"gelu_mul: gate_up must be \[T, 2I\]"))
wrong(activation.gelu, [f32(2, 7)], (0, f32(7), r"gelu: x must be \[T, D\]"), (0, i32(2, 7), "x must be"))
wrong(
    gemm.linear,
    [f32(2, 8), f32(5, 8)],
    (0, f32(2, 7), r"x must be \[T, 8\]"),
    (0, f32(8), r"x must be \[T, 8\]"),
    (1, torch.zeros(5, 8, device=META), "x must be on meta like the weight"),
)
wrong(gemm.prepare, [f32(2, 8)], (0, f32(8), r"weight must be \[N, K\]"), (0, i32(2, 8), "weight must be"))
wrong(
    gemm.prepare_mlp,
    [f32(8, 5), f32(5, 4)],
    (0, f32(7, 5), r"gate_up and down must be \[2I, D\] and \[D, I\], got gate_up \[7, 5\] and down \[5, 4\]"),
)
wrong(
    gemm.gather_rows,
    [f32(4, 8), i64(3)],
    (0, f32(4), r"table must be \[V, D\]"),
    (1, f32(3), "ids must be int32 or int64"),
    (1, torch.tensor([1, 4]), r"ids must be in \[0, 4\), got 4"),
    (1, torch.tensor([-1, 0]), r"ids must be in \[0, 4\)"),
)
wrong(
    moe.route_sigmoid,
    [f32(2, 16), f32(16), 4, 4, 2, 1.0, True],
    (0, f32(2, 16).bfloat16(), "logits must be float32"),
    (1, f32(15), r"bias must be \[16\]"),
    (2, 9, "top_k must be from 1 to 8, the experts of the open groups, got 9"),
    (2, 0, "top_k must be from 1"),
    (3, 5, "n_group must be a divisor of the 16 experts, got 5"),
    (4, 5, "topk_group must be from 1 to n_group = 4, got 5"),
)
wrong(
    moe.experts,
    [f32(2, 32), f32(2, 2), i32(2, 2), EXPERTS],
    (0, f32(2, 31), r"x must be \[T, 32\]"),
    (1, f32(3, 2), r"weights must be \[2, k\]"),
    (2, i32(2, 3), r"ids must be \[2, 2\]"),
    (2, i64(2, 2), "ids must be int32"),
)
wrong(
    moe.prepare_experts,
    [f32(3, 64, 32), f32(3, 32, 32)],
    (0, f32(64, 32), r"gate_up must be \[E, 2I, D\]"),
    (1, f32(3, 32, 31), r"gate_up and down must be \[E, 2I, D\] and \[E, D, I\]"),
    (1, moe.Int4Weight(i32(3, 32, 4), f32(3, 32, 1).bfloat16()), "of one format, or both tensors"),
    (1, f32(3, 32, 32).bfloat16(), "down must be float32"),
)
wrong(
    moe.prepare_experts,
    [INT4_EXPERTS, moe.quantize_int4(f32(3, 32, 32))],
    (0, quantize.quantize_int4(f32(3, 64, 32), zero_point=True), "of one format, got int4-zp and int4"),
)
wrong(
    kv_cache.write_latent,
    [f32(2, 80), f32(64), 1e-5, f32(9, 16), i64(2), i64(2), f32(3, 4, 80)],
    (0, f32(2, 81), r"kv_a must be \[T, 80\]"),
    (4, i32(2), "positions must be int64"),
    (5, i64(3), r"slot_mapping must be \[2\]"),
    (6, f32(3, 4, 79), r"cache must be \[pages, page_size, 80\]"),
    (6, f32(4, 3, 80).transpose(0, 1), "cache must be contiguous"),
)
wrong(
    mla.decode,
    [f32(2, 4, 48), f32(5, 16, 80), KV_B, i32(2, 3), i32(2), 1.0],
    (0, f32(2, 3, 48), r"q must be \[T, 4, N\+R\]"),
    (0, f32(2, 4, 32), r"cache must be \[pages, page_size, 64\]"),
    (1, f32(5, 16, 79), r"cache must be \[pages, page_size, 80\]"),
    (3, i64(2, 3), "block_tables must be int32"),
    (3, i32(3, 3), r"block_tables must be \[2, max_pages\]"),
    (4, i32(3), r"seq_lens must be \[2\]"),
)
wrong(
    mla.prefill,
    [f32(2, 4, 48), f32(5, 16, 80), KV_B, torch.tensor([0, 1, 2]).int(), i32(2, 3), i32(2) + 1, 1.0],
    (3, i32(4), r"cu_q must be \[3\]"),
    (3, i64(3), "cu_q must be int32"),
    (4, i32(3, 3), r"block_tables must be \[2, max_pages\]"),
)
wrong(
    mla.prepare_kv_b,
    [f32(256, 64), 4, 32, 32],
    (0, f32(255, 64), r"kv_b must be \[256, 64\]"),
    (0, i32(256, 64), "kv_b must be bfloat16 or float32|kv_b must be float32 or bfloat16"),
)
wrong(
    sampling.sample,
    [f32(2, 8), f32(2), i32(2), f32(2), i64(2), i64(2)],
    (0, f32(2, 8).bfloat16(), "logits must be float32"),
    (0, f32(2, 0), r"logits must be \[B, V\] with V at least 1"),
    (1, f32(3), r"temperature must be \[2\]"),
    (2, i64(2), "top_k must be int32"),
    (3, f32(2).double(), "top_p must be float32"),
    (4, i32(2), "seeds must be int64"),
    (5, torch.zeros(2, dtype=torch.int64, device=META), "positions must be on cpu"),
)


@pytest.mark.parametrize(("call", "good", "place", "value", "message"), CASES)
def test_wrong_argument(call: Callable[..., object], good: list[Any], place: int, value: object, message: str) -> None:
    call(*good)
    bad = [*good]
    bad[place] = value
    with pytest.raises(ContractError, match=message):
        call(*bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 7}, "dim must be even and at least 2, got 7"),
        ({"max_positions": 0}, "max_positions must be at least 1"),
        ({"factor": 0.5}, "factor must be finite and at least 1, got 0.5"),
        ({"theta": 1.0}, "theta must be finite and above 1"),
        ({"original_max_positions": 0}, "original_max_positions must be at least 1"),
        ({"theta": float("nan")}, "theta must be finite and above 1"),
        ({"beta_slow": 0.0}, "beta_slow must be positive and finite"),
        ({"mscale": float("inf")}, "mscale must be finite"),
    ],
)
def test_yarn_parameters(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "dim": 8, "max_positions": 4, "theta": 1e4, "factor": 2.0, "original_max_positions": 2, "beta_fast": 32.0,
        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    }  # fmt: skip
    assert rope.yarn_cos_sin(**good).shape == (4, 8)
    with pytest.raises(ContractError, match=message):
        rope.yarn_cos_sin(**{**good, **change})


def test_kernels_of_another_dtype_are_refused_with_reasons() -> None:
    with pytest.raises(LookupError, match="x must be bfloat16 or float32, is float16"):
        norm.rms_norm(f32(2, 8).half(), f32(8), 1e-5, impl="native")


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_empty_batches(impl: str, request: pytest.FixtureRequest) -> None:
    if impl == "native":
        request.getfixturevalue("native")
    assert norm.rms_norm(f32(0, 8), f32(8), 1e-5, impl=impl).shape == (0, 8)
    assert norm.add_rms_norm(f32(0, 8), f32(0, 8), f32(8), 1e-5, impl=impl)[0].shape == (0, 8)
    assert rope.apply_interleaved(f32(0, 3, 8), f32(9, 4), i64(0), impl=impl).shape == (0, 3, 8)
    assert activation.silu_mul(f32(0, 8), impl=impl).shape == (0, 4)
    assert gemm.linear(f32(0, 8), gemm.prepare(f32(5, 8), keep_source=True), impl=impl).shape == (0, 5)
    assert gemm.gather_rows(f32(5, 8), i64(0), impl=impl).shape == (0, 8)
    weights, ids = moe.route_sigmoid(f32(0, 16), f32(16), 4, 1, 1, 1.0, True, impl=impl)
    assert (weights.shape, ids.shape) == ((0, 4), (0, 4))
    layer = moe.prepare_experts(f32(3, 64, 32), f32(3, 32, 32), keep_source=True)
    assert moe.experts(f32(0, 32), f32(0, 2), i32(0, 2), layer, impl=impl).shape == (0, 32)
    kv_b = mla.prepare_kv_b(f32(256, 64), 4, 32, 32, keep_source=True)
    assert mla.decode(f32(0, 4, 48), f32(5, 16, 80), kv_b, i32(0, 3), i32(0), 1.0, impl=impl).shape == (0, 128)
    cu_q = i32(1)
    assert mla.prefill(f32(0, 4, 48), f32(5, 16, 80), kv_b, cu_q, i32(0, 3), i32(0), 1.0, impl=impl).shape == (0, 128)
    kv_cache.write_latent(f32(0, 80), f32(64), 1e-5, f32(9, 16), i64(0), i64(0), f32(3, 4, 80), impl=impl)
    assert sampling.sample(f32(0, 8), f32(0), i32(0), f32(0), i64(0), i64(0), impl=impl).shape == (0,)


def test_debug_mode_reads_values(debug: None) -> None:
    table, cache = f32(9, 16), f32(5, 16, 80)
    with pytest.raises(ContractError, match=r"positions must be in \[0, 9\), got values from 9 to 9"):
        rope.apply_interleaved(f32(1, 3, 48), table, torch.tensor([9]))
    with pytest.raises(ContractError, match="slot_mapping must be below 80, got 80"):
        kv_cache.write_latent(f32(1, 80), f32(64), 1e-5, table, i64(1), torch.tensor([80]), cache)
    q, lengths = f32(1, 4, 48), torch.tensor([17], dtype=torch.int32)
    with pytest.raises(ContractError, match=r"block_tables\[0\] must be in \[0, 5\), got values from 0 to 5"):
        mla.decode(q, cache, KV_B, torch.tensor([[0, 5]], dtype=torch.int32), lengths, 1.0)
    with pytest.raises(ContractError, match=r"seq_lens must be in \[0, 17\)"):
        mla.decode(q, cache, KV_B, i32(1, 1), lengths, 1.0)
