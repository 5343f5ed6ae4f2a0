"""What the native kernels pack is what came, number by number: any format, ragged sizes, spaced rows, rows in turn."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, gemm, moe, platform, quantize
from ts_kernels.ops.gemm import cpu, packing
from ts_kernels.ops.quantize.fp4 import e8m0, unpack_e2m1
from ts_kernels.ops.quantize.integer import unpack_words

pytestmark = pytest.mark.skipif(platform.native_error() is not None, reason="native kernels are not built")
Make = Callable[[int, int], Tensor | quantize.QuantizedWeight]
Random = torch.Generator


def bits(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=Random().manual_seed(sum(shape)))


def scale(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, generator=Random().manual_seed(sum(shape))) + 0.1).to(dtype)


def e4m3(*shape: int) -> Tensor:
    """Every code but those of NaN."""
    codes = bits(*shape)
    return torch.where(codes & 127 == 127, codes ^ 64, codes).view(torch.float8_e4m3fn)


def int4(n: int, k: int, group: int, dtype: torch.dtype, zeros: bool = False) -> quantize.Int4Weight:
    groups = k // group if group else 1
    points = bits(-(-n // 8), 4 * groups).view(torch.int32) if zeros else None
    return quantize.Int4Weight(bits(n, k // 2).view(torch.int32), scale(n, groups, dtype=dtype), points)


FORMATS: dict[str, Make] = {
    "fp32": lambda n, k: scale(n, k) - 0.6,
    "bf16": lambda n, k: (scale(n, k) - 0.6).bfloat16(),
    "int4-32": lambda n, k: int4(n, k, 32, torch.bfloat16),
    "int4-64-fp32": lambda n, k: int4(n, k, 64, torch.float32),
    "int4-row-fp16": lambda n, k: int4(n, k, 0, torch.float16),
    "int4-zp-32": lambda n, k: int4(n, k, 32, torch.bfloat16, zeros=True),
    "int4-zp-row": lambda n, k: int4(n, k, 0, torch.float16, zeros=True),
    "int8-32": lambda n, k: quantize.Int8Weight(bits(n, k).view(torch.int8), scale(n, k // 32)),
    "int8-row": lambda n, k: quantize.Int8Weight(bits(n, k).view(torch.int8), scale(n, 1).bfloat16()),
    "fp8-block": lambda n, k: quantize.Fp8BlockWeight(e4m3(n, k), scale(-(-n // 128), -(-k // 128))),
    "fp8-channel": lambda n, k: quantize.Fp8ChannelWeight(e4m3(n, k), scale(n, 1, dtype=torch.float16)),
    "mxfp4": lambda n, k: quantize.Mxfp4Weight(bits(n, k // 32, 16), bits(n, k // 32) // 2),
    "nvfp4": lambda n, k: quantize.Nvfp4Weight(bits(n, k // 2), e4m3(n, k // 16), scale()),
    "nvfp4-by-row": lambda n, k: quantize.Nvfp4Weight(bits(n, k // 2), e4m3(n, k // 16), scale(n)),
}
ANY_K = ("fp32", "bf16", "int8-row", "fp8-block", "fp8-channel")  # others come in whole groups


def plain(weight: Tensor | quantize.QuantizedWeight) -> Tensor:
    """The matrix in fp32: (code - zero point) * scale, where that of NVFP4 is its two scales' product."""
    points: Tensor | None = None
    match weight:
        case Tensor():
            return weight.float()
        case quantize.Int4Weight():
            codes, points, factor = unpack_words(weight.packed, 4), weight.zeros().float(), weight.scale
        case quantize.Mxfp4Weight():
            codes, factor = unpack_e2m1(weight.blocks).flatten(1), e8m0(weight.scales)
        case quantize.Nvfp4Weight():
            codes, factor = unpack_e2m1(weight.packed), weight.scale.float() * weight.row_scale()[:, None]
        case quantize.Fp8BlockWeight():
            codes, factor = weight.values, weight.scale_inv.repeat_interleave(128, 0)[: weight.shape[0]]
        case quantize.Fp8ChannelWeight() | quantize.Int8Weight():
            codes, factor = weight.values, weight.scale
        case _:
            raise AssertionError(weight.kind)
    n, k = codes.shape
    per = 128 if isinstance(weight, quantize.Fp8BlockWeight) else k // factor.shape[1]
    shifted = codes.float() - (0 if points is None else points.repeat_interleave(per, 1))
    return shifted * factor.float().repeat_interleave(per, 1)[:n, :k]


def unpacked(weight: Tensor | quantize.QuantizedWeight, *, in_turn: bool = False) -> Tensor:
    return cpu.unpack(cpu.pack_matrix("test", "weight", weight, in_turn=in_turn), *weight.shape)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    from ts_kernels import _native

    before = _native.threads()
    _native.set_threads(request.param)
    yield
    _native.set_threads(before)


@pytest.mark.parametrize("name", FORMATS)
def test_every_number_is_there(threads: None, name: str) -> None:
    """Panels of 16 rows, blocks of 16 words and the threads' shares all end within these sizes."""
    sizes = [(1, 64), (15, 64), (16, 128), (17, 192), (33, 576), (130, 256), (2050, 512)]
    for n, k in [*sizes, *([(5, 7), (31, 131), (130, 130), (64, 1)] if name in ANY_K else [])]:
        weight = FORMATS[name](n, k)
        assert torch.equal(unpacked(weight), plain(weight)), (n, k)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n", [2, 30, 32, 150])
def test_rows_in_turn(name: str, n: int) -> None:
    weight = FORMATS[name](n, 128)
    whole = plain(weight)
    assert torch.equal(unpacked(weight, in_turn=True), torch.cat((whole[::2], whole[1::2])))


@pytest.mark.parametrize("name", FORMATS)
def test_parts_of_larger_tensors(name: str) -> None:
    """Rows that lie apart, as those of a column's part do, and one matrix of a stack."""

    def spaced(x: Tensor) -> Tensor:
        wide = torch.zeros((*x.shape[:-1], x.shape[-1] + 24), dtype=torch.uint8).to(x.dtype) if x.dim() else x
        part = wide[..., 8 : 8 + x.shape[-1]] if x.dim() else x
        return part.copy_(x)

    weight = FORMATS[name](40, 256)
    if isinstance(weight, Tensor):
        assert torch.equal(unpacked(spaced(weight)), plain(weight))
        return
    apart = dataclasses.replace(weight, **{field: spaced(x) for field, x in weight.tensors().items()})
    assert packing.parts_of(apart).codes.stride(0) > packing.parts_of(weight).codes.stride(0)
    assert torch.equal(unpacked(apart), plain(weight))
    stack = dataclasses.replace(weight, **{f: torch.stack((x, x.flip(0))) for f, x in weight.tensors().items()})
    assert torch.equal(unpacked(stack[1]), plain(stack[1]))


@pytest.mark.parametrize("name", [name for name in FORMATS if name in ANY_K])
def test_what_fills_a_panel_is_zero(isa: str, assert_close: Callable[..., None], name: str) -> None:
    weight = gemm.prepare(FORMATS[name](21, 71), keep_source=True)
    x = torch.randn(3, 71)
    assert_close(gemm.linear(x, weight, impl="native"), gemm.linear(x, weight, impl="reference"))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 63), (16, 64), (20, 70)])
@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_fp8_codes_of_nan_are_found_wherever_they_are(row: int, column: int, code: int) -> None:
    values = torch.full((21, 71), 0x7E, dtype=torch.uint8)
    assert gemm.prepare(quantize.Fp8ChannelWeight(values.view(torch.float8_e4m3fn), torch.ones(21, 1))).packed
    values[row, column] = code
    weight = quantize.Fp8ChannelWeight(values.view(torch.float8_e4m3fn), torch.ones(21, 1))
    with pytest.raises(ContractError, match=r"gemm\.prepare: weight must be finite, got FP8 codes of NaN"):
        gemm.prepare(weight)


def test_fp8_codes_of_nan_in_experts_are_refused() -> None:
    good, bad = (quantize.quantize_fp8_block(torch.ones(2, *shape)) for shape in ((256, 64), (64, 128)))
    bad.values.view(torch.uint8)[1, 3, 5] = 0x7F
    with pytest.raises(ContractError, match=r"moe\.prepare_experts: down must be finite"):
        moe.prepare_experts(good, bad)


def test_many_small_weights_come_and_go() -> None:
    """They share memory, which must outlive each of them, and be none of another's."""
    kept: list[tuple[gemm.LinearWeight, Tensor]] = []
    generator = Random().manual_seed(0)
    for step in range(300):
        weight = torch.randn(96, 64 + step, generator=generator).bfloat16()
        kept.append((gemm.prepare(weight), weight))
        if step % 3 == 0:
            kept.pop(int(torch.randint(len(kept), (1,), generator=generator)))
    assert all(torch.equal(prepared.dequantize(), weight) for prepared, weight in kept)
