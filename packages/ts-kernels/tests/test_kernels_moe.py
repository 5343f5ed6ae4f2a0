"""Expert layers on the CPU: every format, biases, activations, layouts; routing by softmax; the pieces."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, activation, gemm, moe, quantize

Close = Callable[..., None]
Make = Callable[[Tensor], Tensor | quantize.QuantizedWeight]
FORMATS: dict[str, Make] = {
    "fp32": lambda w: w,
    "bf16": lambda w: w.bfloat16(),
    "int4-32": lambda w: quantize.quantize_int4(w, 32),
    "int4-64": lambda w: quantize.quantize_int4(w, 64),
    "int4-128": lambda w: quantize.quantize_int4(w, 128),
    "int4-row": lambda w: quantize.quantize_int4(w, None),
    "int4-fp16-scales": lambda w: quantize.quantize_int4(w, 64, scale_dtype=torch.float16),
    "int4-zp": lambda w: quantize.quantize_int4(w, 64, zero_point=True),
    "int8": lambda w: quantize.quantize_int8(w, 64),
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
    "fp8-block": quantize.quantize_fp8_block,
    "fp8-channel": quantize.quantize_fp8_channel,
}
GATES = [
    moe.Gated(),
    moe.Gated("swiglu_clamped", 1.702, 1.0),
    moe.Gated("gelu"),
    moe.Gated("gelu_tanh"),
]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stacks(experts: int, hidden: int, inter: int) -> tuple[Tensor, Tensor]:
    return randn(1, experts, 2 * inter, hidden) * hidden**-0.5, randn(2, experts, hidden, inter) * inter**-0.5


def routed(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor]:
    """Weights, and distinct ids of which some are outside of the layer."""
    chosen = [torch.randperm(experts + 2, generator=torch.Generator().manual_seed(r))[:k] for r in range(tokens)]
    return randn(4, tokens, k).abs(), (torch.stack(chosen) - 1).int()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formats(isa: str, assert_close: Close, name: str, dtype: torch.dtype) -> None:
    make = FORMATS[name]
    gate_up, down = (make(stack) for stack in stacks(5, 128, 256))
    layer = moe.prepare_experts(gate_up, down, keep_source=True)
    x = randn(3, 7, 128).to(dtype)
    weights, ids = routed(7, 5, 3)
    want = moe.experts(x, weights, ids, layer, impl="reference")
    assert_close(moe.experts(x, weights, ids, layer, impl="native"), want)
    one = ids.clone()
    one[3, 1] = (one[3, 1] + 1) % 5
    with pytest.raises(AssertionError, match="differs"):
        assert_close(moe.experts(x, weights, one, layer, impl="native"), want)


@pytest.mark.parametrize("gate", GATES, ids=lambda g: g.kind)
@pytest.mark.parametrize(("name", "interleaved"), [("fp32", False), ("int4-32", True), ("fp8-channel", True)])
def test_biases_gates_and_layouts(isa: str, assert_close: Close, gate: moe.Gated, name: str, interleaved: bool) -> None:
    make = FORMATS[name]
    gate_up, down = stacks(4, 96, 32)
    biases = {"gate_up_bias": randn(5, 4, 64).bfloat16(), "down_bias": randn(6, 4, 96)}
    layer = moe.prepare_experts(
        make(gate_up), make(down), **biases, activation=gate, interleaved=interleaved, keep_source=True
    )
    x = 3 * randn(3, 9, 96)
    weights, ids = routed(9, 4, 2)
    shared = gemm.prepare_mlp(gate_up[0], down[0])
    want = moe.experts(x, weights, ids, layer, shared=shared, impl="reference")
    assert_close(moe.experts(x, weights, ids, layer, shared=shared, impl="native"), want)
    for left_out in ("gate_up_bias", "down_bias"):
        less = {name: bias for name, bias in biases.items() if name != left_out}
        other = moe.prepare_experts(make(gate_up), make(down), **less, activation=gate, interleaved=interleaved)
        with pytest.raises(AssertionError, match="differs"):
            assert_close(moe.experts(x, weights, ids, other, shared=shared, impl="native"), want)


def test_interleaved_rows_are_the_same_layer(isa: str) -> None:
    gate_up, down = stacks(3, 64, 32)
    turns = torch.stack(gate_up.chunk(2, 1), 2).flatten(1, 2)
    weights, ids = routed(5, 3, 2)
    x = randn(3, 5, 64)
    apart = moe.experts(x, weights, ids, moe.prepare_experts(gate_up, down))
    together = moe.experts(x, weights, ids, moe.prepare_experts(turns, down, interleaved=True))
    assert torch.equal(apart, together)


@pytest.mark.parametrize(("name", "most"), [("int4-128", 1.001), ("mxfp4", 1.06), ("fp8-block", 1.04), ("nvfp4", 1.34)])
def test_experts_keep_their_format(native: None, name: str, most: float) -> None:
    """No more is held than came, but for scales in wider types and in all rows (FP8 blocks)."""
    gate_up, down = (FORMATS[name](stack) for stack in stacks(2, 128, 128))
    layer = moe.prepare_experts(gate_up, down)
    assert isinstance(gate_up, quantize.QuantizedWeight)
    assert isinstance(down, quantize.QuantizedWeight)
    assert layer.format == f"{gate_up.kind}:packed"
    assert layer.gate_up is None
    given = gate_up.nbytes + down.nbytes
    assert given <= layer.packed.nbytes < most * given


def test_wrong_layers() -> None:
    gate_up, down = stacks(2, 64, 32)
    int4 = quantize.quantize_int4(down)
    for arguments, changes, message in [
        ((gate_up, int4), {}, "of one format, or both tensors"),
        ((quantize.quantize_int4(gate_up, zero_point=True), int4), {}, "of one format, got int4-zp and int4"),
        ((gate_up, down), {"gate_up_bias": torch.zeros(2, 63)}, r"gate_up_bias must be \[2, 64\]"),
        ((gate_up, down), {"down_bias": torch.zeros(2, 64).half()}, "down_bias must be"),
        ((gate_up[0], down), {}, r"gate_up must be \[E, 2I, D\]"),
    ]:
        with pytest.raises(ContractError, match=message):
            moe.prepare_experts(*arguments, **changes)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"kind must be silu or .*, got relu"):
        moe.Gated("relu")
    with pytest.raises(ContractError, match="limit must be positive"):
        moe.Gated("swiglu_clamped", limit=0.0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("rows", "experts", "k"), [(0, 8, 2), (1, 1, 1), (5, 32, 4), (3, 257, 9)])
def test_route_softmax(isa: str, assert_close: Close, rows: int, experts: int, k: int, normalize: bool) -> None:
    logits = 3 * randn(1, rows, experts + 3)[:, 1:-2]
    have, ids = moe.route_softmax(logits, k, normalize=normalize, scale=1.5, impl="native")
    want, chosen = moe.route_softmax(logits, k, normalize=normalize, scale=1.5, impl="reference")
    assert torch.equal(ids, chosen)
    assert_close(have, want)


def test_no_expert_is_chosen_twice(isa: str) -> None:
    """Where nothing ranks above minus infinity, or is a number, the lowest that are left are chosen."""
    low, nothing = torch.full((1, 8), -torch.inf), torch.full((1, 8), torch.nan)
    for impl in ("native", "reference"):
        for groups in (1, 4):
            bias = low[0].clone()
            assert moe.route_sigmoid(torch.zeros(1, 8), bias, 2, groups, groups, 1.0, True, impl=impl)[1].tolist() == [
                [0, 1]
            ]
        assert moe.route_softmax(low, 3, normalize=True, impl=impl)[1].tolist() == [[0, 1, 2]]
    some = torch.tensor([[torch.nan, 1.0, torch.nan, torch.nan]])
    assert moe.route_softmax(some, 3, normalize=True, impl="native")[1].tolist() == [[1, 0, 2]]
    assert len(set(moe.route_sigmoid(nothing, torch.zeros(8), 4, 4, 2, 1.0, True, impl="native")[1][0].tolist())) == 4


def test_route_softmax_gives_ties_to_the_lower_id(isa: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0, 1.0]])
    for impl in ("native", "reference"):
        assert moe.route_softmax(logits, 5, normalize=True, impl=impl)[1].tolist() == [[1, 2, 4, 0, 3]]


def test_pieces_make_the_layer(assert_close: Close) -> None:
    gate_up, down = stacks(6, 64, 32)
    layer = moe.prepare_experts(gate_up, down, keep_source=True)
    x = randn(3, 11, 64)
    weights, ids = routed(11, 6, 3)
    hidden = activation.silu_mul(moe.grouped_linear(x, ids, gate_up).flatten(0, 1))
    values = moe.grouped_linear(hidden, ids.view(-1, 1), down).view(11, 3, 64)
    base = randn(5, 11, 64)
    have = moe.combine(values, weights, ids, 6, base=base)
    assert_close(have, base + moe.experts(x, weights, ids, layer, impl="reference"))


def test_combine_does_not_read_what_was_left_out() -> None:
    values = torch.full((1, 2, 3), torch.nan)
    values[0, 0] = 2.0
    out = moe.combine(values, torch.tensor([[0.5, 0.5]]), torch.tensor([[1, 4]], dtype=torch.int32), 4)
    assert out.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(("tokens", "k", "experts", "block"), [(0, 2, 3, 4), (5, 2, 3, 1), (9, 3, 4, 4), (1, 4, 9, 16)])
def test_permute(tokens: int, k: int, experts: int, block: int) -> None:
    _, ids = routed(tokens, experts, k) if tokens else (None, torch.zeros((0, k), dtype=torch.int32))
    order = moe.permute(ids, experts, block=block)
    flat, start = ids.flatten().tolist(), 0
    pairs, offsets = order.pairs.tolist(), order.offsets.tolist()
    for expert in range(experts):
        mine = [pair for pair, chosen in enumerate(flat) if chosen == expert]
        padded = -(-len(mine) // block) * block
        assert offsets[expert] == start
        assert pairs[start : start + padded] == mine + [len(flat)] * (padded - len(mine))
        assert order.blocks[start // block : (start + padded) // block].tolist() == [expert] * (padded // block)
        start += padded
    assert offsets[experts] == start
    assert set(pairs[start:]) <= {len(flat)}
    assert set(order.blocks[start // block :].tolist()) <= {-1}


def test_wrong_pieces() -> None:
    ids, weight = torch.zeros((2, 1), dtype=torch.int32), torch.zeros(3, 8, 16)
    for call, message in [
        (lambda: moe.permute(ids.long(), 3), "ids must be int32"),
        (lambda: moe.permute(ids, 3, block=0), "block must be from 1 to 4096"),
        (lambda: moe.grouped_linear(torch.zeros(2, 15), ids, weight), r"x must be \[T, 16\]"),
        (lambda: moe.grouped_linear(torch.zeros(2, 16), ids, weight[0]), r"weight must be \[E, N, K\]"),
        (lambda: moe.combine(torch.zeros(2, 1, 8), torch.zeros(2, 2), ids, 3), r"weights must be \[2, 1\]"),
        (lambda: moe.route_softmax(torch.zeros(2, 4), 5, normalize=True), "top_k must be from 1 to the 4 experts"),
        (lambda: moe.route_softmax(torch.zeros(2, 4).double(), 2, normalize=True), "logits must be float32"),
    ]:
        with pytest.raises(ContractError, match=message):
            call()


def test_int4_weight_of_a_stack_is_indexed() -> None:
    weight = quantize.quantize_int4(randn(1, 3, 8, 64))
    assert isinstance(weight[1], quantize.Int4Weight)
    assert torch.equal(weight[1].dequantize(), weight.dequantize()[1])
