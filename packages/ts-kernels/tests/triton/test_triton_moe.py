"""Expert layers in Triton against the reference: every format, both ends of the sizes, poisoned memory."""

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from ts_kernels import gemm, moe, quantize
from ts_kernels.ops.moe.triton import decode
from ts_kernels.ops.moe.triton.launch import launch
from ts_kernels.platform import described

Close = Callable[..., None]
FORMATS: dict[str, Callable[[Tensor], Tensor | quantize.QuantizedWeight]] = {
    "fp32": lambda w: w,
    "bf16": lambda w: w.bfloat16(),
    "int4-32": lambda w: quantize.quantize_int4(w, 32),
    "int4-row": lambda w: quantize.quantize_int4(w, None),
    "int4-zp": lambda w: quantize.quantize_int4(w, 32, zero_point=True),
    "int8-row": lambda w: quantize.quantize_int8(w, None),
    "int8-32": lambda w: quantize.quantize_int8(w, 32),
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
    "fp8-block": quantize.quantize_fp8_block,
    "fp8-channel": quantize.quantize_fp8_channel,
}
CLAMPED = moe.Gated("swiglu_clamped", 1.702, 1.0)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(
    name: str, sizes: tuple[int, int, int], device: torch.device, *, biases: bool = False, interleaved: bool = False
) -> moe.ExpertWeights:
    experts, hidden, inter = sizes
    gate_up, down = randn(1, experts, 2 * inter, hidden) * hidden**-0.5, randn(2, experts, hidden, inter) * inter**-0.5
    return moe.prepare_experts(
        FORMATS[name](gate_up.to(device)),
        FORMATS[name](down.to(device)),
        gate_up_bias=randn(5, experts, 2 * inter).to(device) if biases else None,
        down_bias=randn(6, experts, hidden).to(device) if biases else None,
        activation=CLAMPED if biases else None,
        interleaved=interleaved,
        keep_source=True,
        impl="triton",
    )


def routed(tokens: int, experts: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights, and distinct ids of which some are outside of the layer; the first pair is."""
    chosen = [torch.randperm(experts + 2, generator=torch.Generator().manual_seed(r))[:k] for r in range(tokens)]
    ids = (torch.stack(chosen) - 1).int()
    ids[0, 0] = -1
    return randn(4, tokens, k).abs().to(device), ids.to(device)


def check(assert_close: Close, layer: moe.ExpertWeights, x: Tensor, k: int) -> None:
    assert layer.format.endswith("source+tiled")
    weights, ids = routed(x.shape[0], layer.experts, k, x.device)
    want = moe.experts(x, weights, ids, layer, impl="reference")
    assert_close(moe.experts(x, weights, ids, layer, impl="triton"), want)
    with pytest.raises(AssertionError, match="differs"):
        assert_close(moe.experts(x, weights, (ids + 1) % layer.experts, layer, impl="triton"), want)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wide", [False, True])
def test_few_pairs(device: torch.device, assert_close: Close, name: str, wide: bool) -> None:
    """Columns that are no whole spans, rows that are no whole tiles; biases, clamp and interleaved rows on bf16."""
    dtype = torch.float32 if wide else torch.bfloat16
    layer = layer_of(name, (4, 96, 160), device, biases=not wide, interleaved=not wide)
    check(assert_close, layer, randn(3, 5, 96).to(device, dtype), 3)


@pytest.mark.parametrize("name", ["bf16", "int4-32", "fp8-block"])
def test_split_columns(device: torch.device, assert_close: Close, name: str) -> None:
    assert launch("int4", 4, 3, 64, 2048, gated=True, device=described("sm_90"), size=2).split == 4
    layer = layer_of(name, (3, 2048, 32), device, biases=True, interleaved=name != "bf16")
    check(assert_close, layer, randn(3, 2, 2048).to(device), 2)


@pytest.mark.parametrize(("tokens", "block"), [(40, 64), (300, 128)])
def test_many_pairs(device: torch.device, assert_close: Close, tokens: int, block: int) -> None:
    assert launch("int4", 2 * tokens, 2, 64, 64, gated=True, device=described("sm_90"), size=2).block_m == block
    check(assert_close, layer_of("int4-32", (2, 64, 32), device, biases=True), randn(3, tokens, 64).to(device), 2)


def test_shared_expert_and_spaced_rows(device: torch.device, assert_close: Close) -> None:
    layer = layer_of("fp32", (3, 64, 32), device)
    shared = gemm.prepare_mlp(randn(7, 96, 64).to(device), randn(8, 64, 48).to(device))
    x = torch.full((3, 70), torch.nan, device=device)
    x[:, 2:66] = randn(3, 3, 64)
    weights, ids = routed(3, 3, 2, device)
    want = moe.experts(x[:, 2:66], weights, ids, layer, shared=shared, impl="reference")
    assert_close(moe.experts(x[:, 2:66], weights, ids, layer, shared=shared, impl="triton"), want)
    nothing = moe.experts(x[:0, 2:66], weights[:0], ids[:0], layer, shared=shared, impl="triton")
    assert nothing.shape == (0, 64)


def test_nothing_here(device: torch.device) -> None:
    """Every id is another rank's: zeros, though no memory between the kernels was written."""
    layer = layer_of("int4-32", (3, 64, 32), device)
    ids = torch.tensor([[-1, 3], [7, -5]], dtype=torch.int32, device=device)
    out = moe.experts(randn(1, 2, 64).to(device), torch.ones(2, 2, device=device), ids, layer, impl="triton")
    assert torch.equal(out.cpu(), torch.zeros(2, 64))


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("columns", "group"), [(192, 64), (256, 128), (100, None), (64, 64)])
def test_int8_groups(
    device: torch.device, assert_close: Close, columns: int, group: int | None, scale_dtype: torch.dtype
) -> None:
    """Every size of a group, the last span half empty, scales that differ by group; a shifted scale shows."""
    x, ids = randn(2, 3, columns).to(device), routed(3, 2, 1, device)[1]
    matrix = randn(1, 2, 40, columns) * torch.linspace(0.2, 3.0, columns)
    weight = quantize.quantize_int8(matrix.to(device), group, scale_dtype=scale_dtype)
    want = moe.grouped_linear(x, ids, weight, impl="reference")
    assert_close(moe.grouped_linear(x, ids, weight, impl="triton"), want)
    moved = quantize.Int8Weight(weight.values, weight.scale.roll(1, -2))
    with pytest.raises(AssertionError, match="differs"):
        assert_close(moe.grouped_linear(x, ids, moved, impl="triton"), want)


@pytest.mark.parametrize("name", ["bf16", "nvfp4"])
def test_grouped_linear(device: torch.device, assert_close: Close, name: str) -> None:
    weight = FORMATS[name](randn(1, 3, 40, 96).to(device))
    x = randn(2, 4, 96).to(device)
    _, ids = routed(4, 3, 2, device)
    want = moe.grouped_linear(x, ids, weight, impl="reference")
    assert (want[0, 0] == 0).all()
    assert_close(moe.grouped_linear(x, ids, weight, impl="triton"), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_combine(device: torch.device, assert_close: Close, dtype: torch.dtype) -> None:
    values, base = randn(1, 5, 3, 70).to(device, dtype), randn(2, 5, 72)[:, 1:-1].to(device, dtype)
    weights, ids = routed(5, 4, 3, device)
    values[0, 0] = torch.nan
    for start in (None, base):
        want = moe.combine(values, weights, ids, 4, base=start, impl="reference")
        assert_close(moe.combine(values, weights, ids, 4, base=start, impl="triton"), want)


@pytest.mark.parametrize(
    ("tokens", "k", "experts", "block"),
    [(0, 2, 3, 4), (1, 8, 384, 16), (9, 3, 40, 16), (40, 8, 70, 1), (150, 4, 5, 64)],
)
def test_permute(device: torch.device, tokens: int, k: int, experts: int, block: int) -> None:
    ids = routed(tokens, experts, k, device)[1] if tokens else torch.zeros((0, k), dtype=torch.int32, device=device)
    have, want = (moe.permute(ids, experts, block=block, impl=impl) for impl in ("triton", "reference"))
    for field in ("pairs", "offsets", "blocks"):
        assert torch.equal(getattr(have, field), getattr(want, field)), field


@pytest.mark.parametrize(
    ("experts", "groups", "top_groups", "k"),
    [(24, 1, 1, 5), (24, 3, 2, 8), (32, 8, 4, 6), (4, 4, 2, 2), (257, 1, 1, 8)],
)
def test_route_sigmoid(
    device: torch.device, assert_close: Close, experts: int, groups: int, top_groups: int, k: int
) -> None:
    logits, bias = randn(1, 3, experts + 2)[:, 1:-1].to(device), randn(2, experts).to(device)
    arguments = (logits, bias, k, groups, top_groups, 2.5, experts != 24)
    have, ids = moe.route_sigmoid(*arguments, impl="triton")
    want, chosen = moe.route_sigmoid(*arguments, impl="reference")
    assert torch.equal(ids, chosen)
    assert_close(have, want)


@pytest.mark.parametrize("normalize", [False, True])
def test_route_softmax(device: torch.device, assert_close: Close, normalize: bool) -> None:
    logits = (2 * randn(1, 4, 33)).round().to(device)  # many ties
    have, ids = moe.route_softmax(logits, 9, normalize=normalize, scale=1.5, impl="triton")
    want, chosen = moe.route_softmax(logits, 9, normalize=normalize, scale=1.5, impl="reference")
    assert torch.equal(ids, chosen)
    assert_close(have, want)


@pytest.mark.parametrize("normalize", [False, True])
def test_routing_where_experts_are_closed(device: torch.device, normalize: bool) -> None:
    """More choices than experts with a finite logit or bias: the closed ones follow by id, none is chosen twice."""
    closed = torch.tensor([[0, 1.0, 0, 2, 0, 3, 0, 0]]).to(device)
    closed[closed == 0] = -torch.inf
    scores = torch.linspace(-1, 1, 8)[None].to(device)
    for call in (
        lambda impl: moe.route_softmax(closed, 5, normalize=normalize, impl=impl),
        lambda impl: moe.route_sigmoid(scores, closed[0], 5, 1, 1, 1.0, normalize, impl=impl),
    ):
        (have, ids), (want, chosen) = call("triton"), call("reference")
        assert torch.equal(ids, chosen)
        torch.testing.assert_close(have, want)


def test_route_sigmoid_gives_ties_to_the_lower_id(device: torch.device) -> None:
    logits = torch.zeros(1, 12, device=device)
    _, ids = moe.route_sigmoid(logits, torch.zeros(12, device=device), 5, 3, 2, 1.0, True, impl="triton")
    assert ids.tolist() == [[0, 1, 2, 3, 4]]


@triton.jit
def decode_kernel(out, FORMAT: tl.constexpr, COMPUTE: tl.constexpr, CODES: tl.constexpr):
    code = tl.arange(0, CODES).to(tl.uint8)
    if FORMAT == 0:
        value = decode.int4_of(code, tl.full((1,), 8.0, tl.float32), COMPUTE)
    elif FORMAT == 1:
        value = decode.e2m1_of(code, COMPUTE)
    elif FORMAT == 3:
        value = decode.int8_of(code).to(COMPUTE)
    else:
        value = decode.e4m3_of(code, COMPUTE)
    tl.store(out + tl.arange(0, CODES), value.to(tl.float32))


@pytest.mark.parametrize("compute", [tl.float16, tl.float32])
@pytest.mark.parametrize("format", [0, 1, 2, 3])
def test_every_code(device: torch.device, format: int, compute: tl.dtype) -> None:
    want = expected_codes(format).to(device)
    out = torch.empty(want.shape[0], device=device)
    decode_kernel[(1,)](out, FORMAT=format, COMPUTE=compute, CODES=want.shape[0])
    finite = ~want.isnan()
    assert torch.equal(out[finite], want[finite])


def expected_codes(format: int) -> Tensor:
    if format == 0:
        return torch.arange(16).float() - 8
    if format == 1:
        half = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        return torch.cat((half, -half))
    if format == 3:
        return torch.arange(256, dtype=torch.uint8).view(torch.int8).float()
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


@pytest.mark.parametrize("format", [0, 1, 2])
def test_every_code_in_bf16(format: int) -> None:
    """The bits that the kernels make for bf16, which the interpreter cannot multiply, by torch's own arithmetic."""
    want = expected_codes(format)
    code = torch.arange(want.shape[0], dtype=torch.int32)
    if format == 0:
        have = bf16(code | 0x4300) - torch.tensor(136.0, dtype=torch.bfloat16)
    elif format == 1:
        have = bf16(((code & 8) << 12) | ((code & 7) << 6)) * torch.tensor(2.0**126, dtype=torch.bfloat16)
    else:
        have = bf16(((code & 0x80) << 8) | ((code & 0x7F) << 4)) * torch.tensor(2.0**120, dtype=torch.bfloat16)
    finite = ~want.isnan()
    assert torch.equal(have.float()[finite], want[finite])
    assert torch.tensor(8.507059173023462e37, dtype=torch.bfloat16) == 2.0**126
    assert torch.tensor(1.329227995784916e36, dtype=torch.bfloat16) == 2.0**120


def bf16(bits: Tensor) -> Tensor:
    return torch.where(bits >= 2**15, bits - 2**16, bits).to(torch.int16).view(torch.bfloat16)


@pytest.mark.filterwarnings("ignore:.*encountered")  # the interpreter's arithmetic is numpy's
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("groups", [(1, 1), (5, 2)])
def test_routers_agree_on_any_numbers(device: torch.device, groups: tuple[int, int], normalize: bool) -> None:
    """NaN is chosen after all numbers and spoils its row."""
    inf, nan = float("inf"), float("nan")
    logits = randn(1, 7, 20)
    logits[0, 3], logits[1], logits[2, ::2], logits[3, 1:], logits[4, 5], logits[5] = nan, nan, -inf, nan, inf, -inf
    logits, bias = logits.to(device), randn(2, 20).to(device)
    bias[7] = nan
    for call in (
        lambda impl: moe.route_softmax(logits, 4, normalize=normalize, impl=impl),
        lambda impl: moe.route_sigmoid(logits, bias, 4, *groups, 1.5, normalize, impl=impl),
    ):
        (weights, ids), (want, want_ids) = call("triton"), call("reference")
        assert torch.equal(ids, want_ids)
        torch.testing.assert_close(weights, want, rtol=1e-5, atol=1e-6, equal_nan=True)
