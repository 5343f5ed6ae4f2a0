"""Weight formats: what they stand for, held to others' implementations; and linear layers of them, every kernel."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors
from ts_kernels import ContractError, gemm, moe, override, platform, quantize
from ts_kernels.ops.quantize.fp4 import e8m0, pack_e2m1, unpack_e2m1

IMPLS = ["reference", *(["native"] if platform.native_error() is None else [])]
Close = Callable[..., None]
Make = Callable[[Tensor], quantize.QuantizedWeight]
FORMATS: dict[str, Make] = {
    "int4": quantize.quantize_int4,
    "int4 of 128, fp32 scales": lambda w: quantize.quantize_int4(w, 128, scale_dtype=torch.float32),
    "int4 by row": lambda w: quantize.quantize_int4(w, None, scale_dtype=torch.float16),
    "int4 of 64, zero points": lambda w: quantize.quantize_int4(w, 64, zero_point=True),
    "int8": quantize.quantize_int8,
    "int8 of 32": lambda w: quantize.quantize_int8(w, 32),
    "fp8 block": quantize.quantize_fp8_block,
    "fp8 channel": quantize.quantize_fp8_channel,
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
}
# Root mean square error of a normal matrix, relative: 4 bits some 10 percent, e4m3 3, 8 bits below 1.
ERRORS = {"int4": 0.14, "int8": 0.01, "fp8": 0.03, "mxfp4": 0.13, "nvfp4": 0.1}


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_stays_close_and_stacks_index(name: str) -> None:
    weight = matrix(3, 72, 256)
    weight[1, 5] = 0
    made = FORMATS[name](weight)
    error = (made.dequantize() - weight).norm() / weight.norm()
    assert 1e-4 < error < ERRORS[name.split(maxsplit=1)[0]]
    assert made.shape == (3, 72, 256)
    assert made.kind in quantize.KINDS
    assert torch.equal(made[1].dequantize(), made.dequantize()[1])
    assert not made.dequantize()[1, 5].any()
    with pytest.raises(IndexError, match="no stack"):
        made[1][0]


def test_mxfp4_is_what_transformers_reads() -> None:
    """GPT-OSS tensors, every code and a wide range of scales, through an implementation by others."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (2, 24, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(64, 192, (2, 24, 3), dtype=torch.uint8, generator=generator)
    want = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(-1, -2)
    assert torch.equal(quantize.Mxfp4Weight(blocks, scales).dequantize(), want)


def test_scales_and_codes_are_those_of_others() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    have, want = e8m0(codes), codes.view(torch.float8_e8m0fnu).float()
    assert torch.equal(have[:255], want[:255])
    assert have[255].isnan()
    assert torch.equal(unpack_e2m1(torch.arange(16, dtype=torch.uint8))[0::2], torch.tensor(FP4_VALUES))


def test_fp4_rounds_to_the_nearest_even() -> None:
    values = torch.linspace(-7, 7, 2 * 561)  # the halfway points among them
    distance = (values[:, None] - torch.tensor(FP4_VALUES[:8] + FP4_VALUES[9:])).abs()
    nearest = distance.amin(1)
    have = unpack_e2m1(pack_e2m1(values))
    torch.testing.assert_close((have - values).abs(), nearest, rtol=0, atol=0)
    halfway = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25])
    assert unpack_e2m1(pack_e2m1(halfway)).tolist() == [0, 1, 1, 2, 2, 4, 4, 0]


def test_int4_words_as_compressed_tensors_packs_them() -> None:
    """Its documented layout: value + 8, the lowest bits first; zero points along the rows."""
    values = torch.arange(16).repeat(4).view(2, 32).long()
    words = [sum(int(v) << (4 * j) for j, v in enumerate(row[i : i + 8])) for row in values for i in range(0, 32, 8)]
    packed = torch.tensor([w - 2**32 if w >= 2**31 else w for w in words], dtype=torch.int32).view(2, 4)
    scale = torch.tensor([[0.5], [0.25]])
    assert torch.equal(quantize.Int4Weight(packed, scale).dequantize(), (values - 8) * scale)
    points = torch.tensor([[3 | 9 << 4]], dtype=torch.int32)
    want = (values - torch.tensor([[3], [9]])) * scale
    assert torch.equal(quantize.Int4Weight(packed, scale, points).dequantize(), want)


def test_mxfp4_says_where_a_number_is_not_finite() -> None:
    made = quantize.quantize_mxfp4(torch.ones(3, 64))
    made.scales[0, 0] = made.scales[1, 1] = 255
    blocks = made.dequantize().view(3, 2, 32)
    assert blocks.isnan().all(-1).tolist() == [[True, False], [False, True], [False, False]]
    assert blocks[2].eq(1).all()


def test_int8_words() -> None:
    words = torch.tensor([[0x7F | 0x80 << 8 | 0xFF << 16, 1]], dtype=torch.int32)
    weight = quantize.Int8Weight.from_packed(words, torch.ones(1, 1), 5)
    assert weight.values.tolist() == [[-1, 0, 127, -128, -127]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_linear(isa: str, assert_close: Close, name: str, dtype: torch.dtype) -> None:
    """Rows and columns that fill no block; a row's result is the same in any batch; and mistakes show."""
    k = 96 if name in ("int4", "int8 of 32", "mxfp4", "nvfp4") else 384
    weight = gemm.prepare(FORMATS[name](matrix(83, k)), bias=matrix(83), keep_source=True)
    assert weight.format.endswith(":source+packed")
    x = torch.randn(70, k + 16, generator=torch.Generator().manual_seed(2))[:, 8:-8].to(dtype)
    x[3] *= 1e4
    have = gemm.linear(x, weight, impl="native")
    for row in range(0, 70, 23):
        assert_close(have[row : row + 1], gemm.linear(x[row : row + 1], weight, impl="reference"))
    for first, count in ((0, 1), (3, 1), (7, 2), (1, 5), (2, 13), (5, 60)):
        assert torch.equal(gemm.linear(x[first : first + count], weight, impl="native"), have[first : first + count])
    with pytest.raises(AssertionError, match="differs"):
        assert_close(gemm.linear(x[:1].roll(1, 1), weight, impl="native"), gemm.linear(x[:1], weight, impl="reference"))
    assert gemm.linear(x[:0], weight, impl="native").shape == (0, 83)


@pytest.mark.parametrize("name", FORMATS)
def test_packed_alone_reads_back(native: None, name: str) -> None:
    made = FORMATS[name](matrix(40, 256))
    packed = gemm.prepare(made, bias=matrix(40))
    assert packed.source is None
    assert packed.format == f"{made.kind}:packed"
    torch.testing.assert_close(packed.dequantize(), made.dequantize(), rtol=2e-7, atol=0)  # nvfp4 joins its two scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["int4", "int4 of 64, zero points", "int8", "fp8 block", "fp8 channel", "mxfp4", "nvfp4"]
)
def test_many_deep_rows(isa: str, assert_close: Close, name: str, dtype: torch.dtype) -> None:
    """Products that are made in parts of rows and of k, with codes widened for many rows, are those of single rows."""
    weight = gemm.prepare(FORMATS[name](matrix(51, 2112)), keep_source=True)
    x = torch.randn(83, 2112, generator=torch.Generator().manual_seed(3))
    x = (x * torch.randn(83, 2112, generator=torch.Generator().manual_seed(4)).exp()).to(dtype)
    have = gemm.linear(x, weight, impl="native", out_dtype=torch.float32)
    assert_close(have, gemm.linear(x, weight, impl="reference", out_dtype=torch.float32), dtype)
    for first, count in ((0, 1), (82, 1), (2, 5), (3, 6), (7, 48), (5, 50), (9, 70)):
        part = gemm.linear(x[first : first + count], weight, impl="native", out_dtype=torch.float32)
        assert torch.equal(part, have[first : first + count])


@pytest.mark.parametrize("name", FORMATS)
def test_the_lowest_parts_times_the_largest_codes(isa: str, name: str) -> None:
    """Rows in fixed point whose lower bytes are all -128, and codes at their ends: no sum may leave its 16 bits.

    Held to float64, k in two parts. What may differ is the rounding of as many sums in fp32, each by 2^-24; a sum that
    wraps is off by a hundredth.
    """
    k = 1536
    signs = torch.stack((torch.ones(k), -torch.ones(k), (-1.0) ** torch.arange(k)))
    made = FORMATS[name](signs.repeat(11, 1) * torch.tensor([1.0, 0.5, 0.75]).repeat_interleave(11)[:, None])
    weight = made.dequantize().double()
    for dtype, small in ((torch.bfloat16, 2**-6), (torch.float32, 2**-6 + 2**-14)):
        x = torch.full((5, k), small)
        x[:, ::16] = 1.0  # is 2^13 in 15 bits, 2^21 in 23: 2^-6 is then 128 of the second byte, 2^-14 of the third
        x[1], x[2, ::3], x[3, :128] = -x[1], -x[2, ::3], 0
        have = gemm.linear(x.to(dtype), gemm.prepare(made), out_dtype=torch.float32, impl="native").double()
        want, size = x.double() @ weight.t(), x.double().abs() @ weight.abs().t()
        assert ((have - want).abs() / size).max() < k * 2**-24
        one = gemm.linear(x[4:].to(dtype), gemm.prepare(made), out_dtype=torch.float32, impl="native").double()
        assert torch.equal(one[0], have[4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("k", "make"),
    [
        (1064, lambda w: quantize.quantize_int4(w, None)),
        (40, lambda w: quantize.quantize_int4(w, None, zero_point=True)),
        (45, quantize.quantize_int8),
        (3, quantize.quantize_int8),
        (48, quantize.quantize_nvfp4),
        (1029, quantize.quantize_fp8_channel),
        (130, quantize.quantize_fp8_channel),
        (3, quantize.quantize_fp8_channel),
    ],
)
def test_the_last_block_may_be_short(isa: str, assert_close: Close, k: int, make: Make, dtype: torch.dtype) -> None:
    """What follows a row in memory, NaN here, is not read into its last block; and every number of the block counts."""
    weight = gemm.prepare(make(matrix(19, k)), keep_source=True)
    x = torch.full((50, k + 9), torch.nan, dtype=dtype)
    x[:, :k] = torch.randn(50, k, generator=torch.Generator().manual_seed(5))
    x[1, : k - 1], x[2, : k - 2] = 0, 0  # the last numbers alone
    for rows in (x[:, :k], x[:5, :k], x[1:2, :k]):
        have, want = (gemm.linear(rows, weight, out_dtype=torch.float32, impl=i) for i in ("native", "reference"))
        for row in range(len(rows)):
            assert_close(have[row], want[row], dtype)


@pytest.mark.parametrize("name", ["int4", "fp8 block"])
def test_large_rows(isa: str, assert_close: Close, name: str) -> None:
    """Numbers whose sums of codes no float holds, though the results do."""
    weight = gemm.prepare(FORMATS[name](matrix(32, 64)), keep_source=True)
    x = (torch.randn(50, 64, generator=torch.Generator().manual_seed(3)).sign() * 1e38).bfloat16()
    have = gemm.linear(x, weight, impl="native")
    assert_close(have * 1e-38, gemm.linear(x, weight, impl="reference") * 1e-38)
    assert torch.equal(gemm.linear(x[:2], weight, impl="native"), have[:2])


@pytest.mark.parametrize("rows", [1, 4, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_code_of_fp8(isa: str, rows: int, dtype: torch.dtype) -> None:
    """Exact where a row picks one number, at every place of a word and of a vector of columns."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes & 0x7F != 0x7F]
    values = torch.stack([codes.roll(row) for row in range(17)]).view(torch.float8_e4m3fn)
    weight = gemm.prepare(quantize.Fp8ChannelWeight(values, torch.linspace(0.5, 2, 17)[:, None]))
    for first in range(0, 254, rows):
        x = torch.eye(254, dtype=dtype)[first : first + rows]
        have = gemm.linear(x, weight, out_dtype=torch.float32, impl="native")
        assert torch.equal(have, weight.dequantize()[:, first : first + rows].t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_small_rows_keep_their_bits(isa: str, name: str, dtype: torch.dtype) -> None:
    """A power of two down to 2^-80 changes no digit of the result."""
    weight = gemm.prepare(FORMATS[name](matrix(32, 128)))
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(6)).to(dtype)
    have = gemm.linear(x * 2.0**-80, weight, out_dtype=torch.float32, impl="native")
    assert torch.equal(have * 2.0**80, gemm.linear(x, weight, out_dtype=torch.float32, impl="native"))


@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, 5), (torch.bfloat16, 50)])
def test_rows_that_no_fixed_point_holds(isa: str, dtype: torch.dtype, rows: int) -> None:
    """Infinities and NaN reach their row's results and no other's; the smallest numbers may count as zero."""
    weight = gemm.prepare(quantize.quantize_int4(matrix(32, 64)), keep_source=True)
    x = torch.ones(rows, 64, dtype=dtype)
    x[0, 3], x[1, 40], x[2] = torch.inf, torch.nan, 1e-42
    have, want = gemm.linear(x, weight, impl="native"), gemm.linear(x, weight, impl="reference")
    assert not have[:2].isfinite().any()
    assert have[2].abs().max() < 1e-37
    torch.testing.assert_close(have[3:], want[3:])


@pytest.mark.parametrize("form", ["rows", "columns", "one row"])
def test_a_broadcast_weight_is_its_copy(native: None, form: str) -> None:
    row = matrix(1, 24)
    weight = {
        "rows": row.expand(5, 24),
        "columns": matrix(5, 1).expand(5, 24),
        "one row": row.as_strided((1, 24), (0, 1)),
    }[form]
    x = torch.randn(3, 24)
    want = x @ weight.t()
    torch.testing.assert_close(gemm.linear(x, weight, impl="native"), want)
    torch.testing.assert_close(gemm.linear(x, gemm.prepare(weight), impl="native"), want)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("form", ["rows", "columns", "overlapping"])
def test_broadcast_experts_are_their_copy(native: None, form: str, interleaved: bool) -> None:
    gate_up, down = {
        "rows": (matrix(4, 1, 64).expand(4, 128, 64), matrix(64).expand(4, 64, 64)),
        "columns": (matrix(4, 128, 1).expand(4, 128, 64), matrix(4, 64, 1).expand(4, 64, 64)),
        "overlapping": (matrix(4 * 128 * 64).as_strided((4, 128, 64), (128 * 8, 8, 1)), matrix(4, 64, 64)),
    }[form]
    want = moe.prepare_experts(gate_up.clone(), down.clone(), interleaved=interleaved)
    builder = moe.ExpertsBuilder(4, 64, 64, interleaved=interleaved)
    for expert in range(4):
        builder.put("gate_up", expert, 0, gate_up[expert])
        builder.put("down", expert, 0, down[expert])
    x, ids = torch.randn(3, 64), torch.tensor([[0, 1], [2, 3], [3, 0]], dtype=torch.int32)
    for have in (moe.prepare_experts(gate_up, down, interleaved=interleaved), builder.finish()):
        weights = torch.rand(3, 2)
        assert torch.equal(moe.experts(x, weights, ids, have), moe.experts(x, weights, ids, want))


@pytest.mark.parametrize("name", ["int4", "mxfp4", "fp8 block"])
def test_mlp(isa: str, assert_close: Close, name: str) -> None:
    up, down = FORMATS[name](matrix(2 * 128, 64)), FORMATS[name](matrix(64, 128))
    mlp = gemm.prepare_mlp(
        gemm.prepare(up, bias=matrix(256), keep_source=True), gemm.prepare(down, bias=matrix(64), keep_source=True)
    )
    x = torch.randn(9, 64)
    assert_close(gemm.mlp(x, mlp, impl="native"), gemm.mlp(x, mlp, impl="reference"))


def test_wrong_weights_are_refused(native: None) -> None:
    words, scale = torch.zeros(4, 8, dtype=torch.int32), torch.ones(4, 2)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: quantize.Int4Weight(words, torch.ones(4, 3)), "scale must be .* where K = 64"),
        (lambda: quantize.Int4Weight(words.long(), scale), "packed must be int32"),
        (lambda: quantize.Int4Weight(words, scale.double()), "scale must be float32 or bfloat16 or float16"),
        (lambda: quantize.Int4Weight(words, scale, words), r"zero_point must be \[1, 2\]"),
        (lambda: quantize.Int8Weight(torch.zeros(4, 8), scale), "values must be int8"),
        (lambda: quantize.Mxfp4Weight(torch.zeros(4, 2, 8, dtype=torch.uint8), scale), r"blocks must be \[4, 2, 16\]"),
        (lambda: quantize.quantize_nvfp4(torch.ones(3, 40)), "K a multiple of 16"),
        (lambda: quantize.quantize_int4(torch.ones(3, 40), 32), "group must be a divisor of K = 40"),
        (lambda: gemm.prepare(quantize.quantize_int4(torch.ones(2, 3, 32))), r"weight must be \[N, K\]"),
        (lambda: gemm.prepare(torch.ones(3, 8), bias=torch.ones(4)), r"bias must be \[3\]"),
        (lambda: gemm.prepare_mlp(quantize.quantize_int4(torch.ones(64, 32)), torch.ones(32, 32)), "of one format"),
    ]
    for call, message in wrong:
        with pytest.raises(ContractError, match=message):
            call()


def test_fp8_codes_of_nan_are_refused(native: None) -> None:
    values = torch.zeros(2, 8).to(torch.float8_e4m3fn)
    values.view(torch.uint8)[1, 3] = 0x7F
    with pytest.raises(ContractError, match="codes of NaN"):
        gemm.prepare(quantize.Fp8ChannelWeight(values, torch.ones(2, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 50])
def test_scales_of_fp8_of_any_size(isa: str, assert_close: Close, rows: int, dtype: torch.dtype) -> None:
    """Those of codes that do not leave room for 2^120, beside some that do."""
    values = quantize.quantize_fp8_block(matrix(80, 3 * 128)).values
    scale = torch.tensor([[2.0**100, 300.0, -(2.0**8)]])
    weight = quantize.Fp8BlockWeight(values, scale)
    x = torch.randn(rows, 3 * 128).to(dtype)
    x[:, :128] *= 2.0**-92
    linear = gemm.prepare(weight, keep_source=True)
    assert_close(gemm.linear(x, linear, impl="native"), gemm.linear(x, linear, impl="reference"))


def test_scales_that_are_not_finite_are_refused_in_debug_mode(debug: None) -> None:
    bad = torch.tensor([[1.0], [torch.inf]])
    with pytest.raises(ContractError, match="scale must be finite"):
        quantize.Int4Weight(torch.zeros(2, 4, dtype=torch.int32), bad)
    scales = torch.tensor([[255]], dtype=torch.uint8)
    with pytest.raises(ContractError, match="scales must be finite"):
        quantize.Mxfp4Weight(torch.zeros(1, 1, 16, dtype=torch.uint8), scales)


def test_every_code_times_every_place(isa: str, assert_close: Close) -> None:
    """One-hot rows read each code in each place of a word."""
    eye = torch.eye(64)
    codes = torch.arange(64 * 64).view(64, 64)
    fours = (codes % 16).to(torch.uint8)
    packed = (fours[:, 0::2] | fours[:, 1::2] << 4).contiguous()
    e4m3 = (codes % 127 + 128 * (codes % 2)).to(torch.uint8).view(torch.float8_e4m3fn)
    made: list[quantize.QuantizedWeight] = [
        quantize.Int4Weight(packed.view(torch.int32), torch.full((64, 2), 0.25)),
        quantize.Int8Weight((codes % 256 - 128).to(torch.int8), torch.full((64, 1), 0.5)),
        quantize.Fp8ChannelWeight(e4m3, torch.full((64, 1), 2.0)),
        quantize.Mxfp4Weight(packed.view(64, 2, 16), torch.full((64, 2), 128, dtype=torch.uint8)),
    ]
    for weight, dtype in itertools.product(made, (torch.float32, torch.bfloat16)):
        have = gemm.linear(eye.to(dtype), gemm.prepare(weight), out_dtype=torch.float32, impl="native")
        assert torch.equal(have.t(), weight.dequantize()), weight.kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 100, 1200])
def test_activations_to_fp8(native: None, dtype: torch.dtype, width: int) -> None:
    """To the bit: scales by exact division, values to the nearest, ties to even; zeros, infinities and NaN too."""
    x = (torch.randn(6, width + 7) * torch.logspace(-6, 2, width + 7))[:, 3:-4].to(dtype)
    x[1], x[2, 0], x[3, 0] = 0, torch.inf, torch.nan
    for run in (quantize.fp8_per_token, quantize.fp8_per_group):
        (values, scale), (want, want_scale) = run(x, impl="native"), run(x, impl="reference")
        torch.testing.assert_close(scale, want_scale, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(values.float(), want.float(), rtol=0, atol=0, equal_nan=True)
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]
    values, scale = quantize.fp8_per_token(codes.view(torch.float8_e4m3fn).float()[None], impl="native")
    assert scale.item() == 1
    assert torch.equal(values.view(torch.uint8)[0], codes)


def spoilt(weight: quantize.QuantizedWeight, value: float) -> quantize.QuantizedWeight:
    """One scale in the last row is ``value``; where the format has no such, NaN."""
    tensors = {name: tensor.clone() for name, tensor in weight.tensors().items()}
    scale = next(tensor for name, tensor in tensors.items() if "scale" in name)
    if scale.itemsize == 1:
        scale.view(torch.uint8).view(-1)[-1] = 255
    else:
        scale.view(-1)[-1] = torch.tensor(value).to(scale.dtype)
    return type(weight)(**tensors)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("impl", IMPLS)
def test_scales_that_are_not_finite_are_refused(name: str, value: float, impl: str) -> None:
    """Wherever weights are prepared, for whichever kernel."""
    make, wrong = FORMATS[name], "must be finite, got scales that are not"
    one, gate_up, down = make(matrix(256, 128)), make(matrix(2, 256, 128)), make(matrix(2, 128, 128))
    x, ids = torch.randn(1, 128), torch.ones(1, 1, dtype=torch.int32)
    with override(impl):
        gemm.prepare(one)
        for call, message in (
            (lambda: gemm.prepare(spoilt(one, value)), "gemm.prepare: weight"),
            (
                lambda: gemm.prepare_mlp(one, spoilt(make(matrix(128, 128)), value)),
                "gemm.prepare: weight|gemm.prepare_mlp: down",
            ),
            (lambda: moe.prepare_experts(spoilt(gate_up, value), down), "moe.prepare_experts: gate_up"),
            (lambda: moe.prepare_experts(gate_up, spoilt(down, value)), "moe.prepare_experts: down"),
            (lambda: moe.grouped_linear(x, ids, spoilt(gate_up, value)), "moe.grouped_linear: weight"),
        ):
            with pytest.raises(ContractError, match=f"({message}) {wrong}"):
                call()
        if isinstance(one, quantize.Nvfp4Weight):
            one = replace(one, global_scale=one.row_scale().contiguous())
        builder = gemm.LinearBuilder(256)
        builder.put(0, spoilt(one, value))
        with pytest.raises(ContractError, match=wrong):
            builder.finish()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_not_finite_are_not_rounded(name: str, value: float) -> None:
    weight = matrix(2, 72, 256)
    weight[1, 70, 200] = value
    with pytest.raises(ContractError, match="weight must be finite"):
        FORMATS[name](weight)


@pytest.mark.parametrize("shape", [(0, 128, 128), (2, 0, 128, 128), (0, 128), (128, 0)])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_not_rounded(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=r"quantize_\w+: weight must be \[..., N, K\] with no size 0"):
        FORMATS[name](torch.zeros(shape))


@pytest.mark.parametrize(("columns", "group"), [(62, 62), (12, None), (36, 12), (4, 2)])
@pytest.mark.parametrize("zero_point", [False, True])
def test_words_of_int4_are_full(columns: int, group: int | None, zero_point: bool) -> None:
    with pytest.raises(ContractError, match=r"weight must be \[..., N, K\] with K a multiple of 8, got"):
        quantize.quantize_int4(matrix(8, columns), group, zero_point=zero_point)


def test_scales_must_fit_their_dtype() -> None:
    with pytest.raises(ContractError, match="weight must be finite, and its scales within float16"):
        quantize.quantize_int4(torch.full((2, 32), 1e6), scale_dtype=torch.float16)
