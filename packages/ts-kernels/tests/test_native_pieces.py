"""The native steps of an expert layer and the merge of partial attention, against the reference at every set."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_kernels import ContractError, attention, checking, moe, quantize
from ts_kernels.selection import OPERATIONS

_native = pytest.importorskip("ts_kernels._native")

Close = Callable[..., None]
Make = Callable[[Tensor], Tensor | quantize.QuantizedWeight]
FORMATS: dict[str, Make] = {
    "fp32": lambda w: w,
    "bf16": lambda w: w.bfloat16(),
    "int4-32": lambda w: quantize.quantize_int4(w, 32),
    "int4-128": lambda w: quantize.quantize_int4(w, 128),
    "int4-row": lambda w: quantize.quantize_int4(w, None),
    "int4-fp16-scales": lambda w: quantize.quantize_int4(w, 64, scale_dtype=torch.float16),
    "int4-zp": lambda w: quantize.quantize_int4(w, 64, zero_point=True),
    "int8-64": lambda w: quantize.quantize_int8(w, 64),
    "int8-row": lambda w: quantize.quantize_int8(w, None),
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
    "fp8-block": quantize.quantize_fp8_block,
    "fp8-channel": quantize.quantize_fp8_channel,
}
QUERIES = [torch.float32, torch.bfloat16, torch.float16]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chosen(seed: int, tokens: int, k: int, experts: int) -> Tensor:
    """Ids from -1 to ``experts``: the first and the last are outside of the layer; some twice in a row."""
    return torch.randint(-1, experts + 1, (tokens, k), generator=torch.Generator().manual_seed(seed)).int()


# Merge


@given(
    parts=st.integers(1, 5),
    tokens=st.sampled_from([0, 1, 3, 40]),
    heads=st.sampled_from([1, 3, 8]),
    v=st.sampled_from([1, 5, 16, 33, 128]),
    dtype=st.sampled_from(QUERIES),
)
def test_merge(isa: str, assert_close: Close, parts: int, tokens: int, heads: int, v: int, dtype: torch.dtype) -> None:
    """Parts without keys hold NaN; tokens and parts are spaced."""
    outs = randn(tokens + v, parts, tokens + 1, heads * v + 3).to(dtype)[:, 1:, :-3]
    lses = 5 * randn(parts, parts, tokens + 1, heads)[:, 1:]
    lses[0, ::2] = -torch.inf
    outs[0, ::2] = torch.nan
    lses[:, ::3, 0] = -torch.inf
    have, want = (attention.merge(outs, lses, impl=impl) for impl in ("native", "reference"))
    assert (have[0].dtype, have[1].dtype) == (dtype, torch.float32)
    assert_close(have[0], want[0])
    empty = want[1] == -torch.inf
    assert torch.equal(have[1] == -torch.inf, empty)
    assert_close(have[1].masked_fill(empty, 0.0), want[1].masked_fill(empty, 0.0))
    assert not have[0].reshape(tokens, heads, v)[empty].any()
    if tokens and dtype != torch.float32:
        one = slice(0, 1)
        alone = attention.merge(outs[:, one].contiguous(), lses[:, one], impl="native")
        assert torch.equal(alone[0], have[0][one])


def test_merge_passes_nan_and_infinity_on(isa: str) -> None:
    inf, nan = torch.inf, torch.nan
    # Of each token: a NaN among the lses; a NaN in a part that counts; an infinite lse; an infinite output.
    lses = torch.tensor([[[0.0], [0.0], [inf], [0.0]], [[nan], [0.0], [0.0], [-inf]]])
    outs = torch.tensor([[[1.0, 2.0], [nan, 2.0], [1.0, 2.0], [inf, 2.0]], [[3.0, 4.0]] * 4])
    for seen in (attention.merge(outs, lses, impl=impl) for impl in ("native", "reference")):
        torch.testing.assert_close(
            seen[0], torch.tensor([[nan, nan], [nan, 3.0], [nan, nan], [inf, 2.0]]), equal_nan=True
        )
        torch.testing.assert_close(seen[1], torch.tensor([[nan], [0.6931472], [inf], [0.0]]), equal_nan=True)


def test_every_half_float_comes_through(isa: str) -> None:
    codes = torch.arange(-(2**15), 2**15).to(torch.int16)
    outs = codes.view(torch.float16).view(1, 256, 256)
    have = attention.merge(outs, torch.zeros(1, 256, 1), impl="native")[0]
    same = have.view(torch.int16) == codes.view(256, 256)
    # A negative zero loses its sign in the sum; what was no number is none, in whatever bits.
    assert torch.equal(same | (outs[0] == 0) | (outs[0].isnan() & have.isnan()), torch.ones(256, 256, dtype=torch.bool))


def test_half_floats_are_rounded_to_even(isa: str) -> None:
    """Means of neighbouring codes, ties included, of all signs and exponents."""
    codes = torch.arange(0x7BFF, dtype=torch.int16)
    low = torch.cat((codes.view(torch.float16), -codes.view(torch.float16)))
    high = torch.cat(((codes + 1).view(torch.float16), -(codes + 1).view(torch.float16)))
    outs = torch.stack((low, high))[:, None]
    have = attention.merge(outs, torch.zeros(2, 1, 1), impl="native")[0][0]
    assert torch.equal(have, (low.float() / 2 + high.float() / 2).half())


def test_merge_sees_mistakes(native: None) -> None:
    outs, lses = randn(1, 3, 7, 48).bfloat16(), randn(2, 3, 7, 4)
    want = attention.merge(outs, lses, impl="native")[0]
    for wrong in (outs.roll(1, 0), outs.roll(12, 2), outs * torch.tensor([1, 1, 0])[:, None, None].bfloat16()):
        have = attention.merge(wrong, lses, impl="native")[0]
        assert checking.difference(have, want) > 2 * checking.TOLERANCE[torch.bfloat16]


# The steps of an expert layer


@given(
    tokens=st.sampled_from([0, 1, 5, 64, 300]),
    k=st.integers(1, 8),
    experts=st.sampled_from([1, 3, 9, 257]),
    block=st.sampled_from([1, 3, 16, 64]),
)
def test_permute(native: None, tokens: int, k: int, experts: int, block: int) -> None:
    ids = chosen(tokens, k, tokens, experts).t()  # not contiguous
    assert ids.shape == (tokens, k)
    have, want = (moe.permute(ids, experts, block=block, impl=impl) for impl in ("native", "reference"))
    direct = moe.permute(ids.contiguous(), experts, block=block)
    for order in (have, direct):
        assert torch.equal(order.pairs, want.pairs)
        assert torch.equal(order.offsets, want.offsets)
        assert torch.equal(order.blocks, want.blocks)
        assert order.block == block
        assert order.pairs.dtype == order.offsets.dtype == order.blocks.dtype == torch.int32


@given(
    tokens=st.sampled_from([0, 1, 5, 40]),
    k=st.integers(1, 8),
    width=st.sampled_from([1, 7, 64, 1000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    based=st.booleans(),
)
def test_combine(
    isa: str, assert_close: Close, tokens: int, k: int, width: int, dtype: torch.dtype, based: bool
) -> None:
    ids = chosen(width, tokens, k, 3)
    values = randn(1, tokens, k, width).to(dtype)
    values[(ids < 0) | (ids >= 3)] = torch.nan
    base = randn(2, tokens, width + 5).to(dtype)[:, 5:] if based else None
    weights = randn(3, tokens, k)
    have, want = (moe.combine(values, weights, ids, 3, base=base, impl=impl) for impl in ("native", "reference"))
    assert_close(have, want)
    assert torch.equal(moe.combine(values, weights, ids, 3, base=base), have)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "k", "experts", "n", "width"), [(7, 3, 5, 72, 128), (1, 2, 4, 256, 256), (300, 2, 2, 33, 128)]
)
def test_grouped_linear(
    isa: str, assert_close: Close, name: str, dtype: torch.dtype, tokens: int, k: int, experts: int, n: int, width: int
) -> None:
    weight = FORMATS[name](randn(1, experts, n, width) * width**-0.5)
    x, ids = randn(2, tokens, width + 3).to(dtype)[:, 3:], chosen(3, tokens, k, experts)
    ids[0] = torch.arange(k)
    have, want = (moe.grouped_linear(x, ids, weight, impl=impl) for impl in ("native", "reference"))
    assert have.shape == (tokens, k, n)
    assert_close(have, want)
    assert not have[(ids < 0) | (ids >= experts)].any()
    if isa != "amx":  # there the number of rows decides what serves
        for token in range(0, tokens, 97):
            one = slice(token, token + 1)
            assert torch.equal(moe.grouped_linear(x[one], ids[one], weight, impl="native"), have[one])
    with pytest.raises(AssertionError, match="differs"):
        assert_close(moe.grouped_linear(x, torch.where(ids == 0, 1, ids), weight, impl="native"), want)


@pytest.mark.parametrize("name", ["bf16", "int4-32", "int8-row"])
def test_grouped_linear_on_tiles(native: None, assert_close: Close, name: str) -> None:
    """AMX's form on emulated tiles, which take bf16 and INT4; the rows of an expert do not fill the last one."""
    before = _native.isa()
    weight, x, ids = FORMATS[name](randn(1, 2, 40, 96)), randn(2, 21, 96).bfloat16(), chosen(3, 21, 3, 2)
    _native.set_isa("amx_emulated")
    try:
        have = moe.grouped_linear(x, ids, weight, impl="native")
    finally:
        _native.set_isa(before)
    assert_close(have, moe.grouped_linear(x, ids, weight, impl="reference"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (17, 31), (48, 33), (100, 63)])
def test_grouped_linear_of_odd_sizes(
    isa: str, assert_close: Close, dtype: torch.dtype, stored: torch.dtype, n: int, width: int
) -> None:
    """Rows that end within a word; a plain stack whose rows are spaced, or turned around."""
    x, ids, plain = randn(2, 9, width).to(dtype), chosen(3, 9, 2, 3), randn(1, 3, n, width)
    weights: list[Tensor | quantize.QuantizedWeight]
    if stored == torch.int8:
        weights = [quantize.quantize_int8(plain, None)]
    elif stored == torch.float8_e4m3fn:
        weights = [quantize.quantize_fp8_channel(plain), quantize.quantize_fp8_block(plain)]
    else:
        wide = torch.full((3, n, width + 5), torch.nan).to(stored)
        wide[..., :width] = plain
        weights = [plain.to(stored), wide[..., :width], plain.to(stored).mT.contiguous().mT]
    for weight in weights:
        have, want = (moe.grouped_linear(x, ids, weight, impl=impl) for impl in ("native", "reference"))
        assert_close(have, want)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_empty_steps(impl: str, request: pytest.FixtureRequest) -> None:
    if impl == "native":
        request.getfixturevalue("native")
    none, weight = torch.zeros((0, 2), dtype=torch.int32), randn(1, 3, 8, 16)
    assert moe.grouped_linear(randn(1, 0, 16), none, weight, impl=impl).shape == (0, 2, 8)
    assert moe.grouped_linear(randn(1, 2, 16), none.new_empty(2, 0), weight, impl=impl).shape == (2, 0, 8)
    elsewhere = torch.tensor([[3, -1], [7, -9]], dtype=torch.int32)
    assert moe.grouped_linear(randn(1, 2, 16), elsewhere, weight, impl=impl).eq(0).all()
    assert moe.grouped_linear(randn(1, 2, 0), elsewhere * 0, weight[..., :0], impl=impl).eq(0).all()
    assert moe.combine(randn(1, 0, 2, 8), randn(1, 0, 2), none, 3, impl=impl).shape == (0, 8)
    assert moe.combine(randn(1, 2, 0, 8), randn(1, 2, 0), none.new_empty(2, 0), 3, impl=impl).eq(0).all()
    assert moe.permute(none, 3, block=4, impl=impl).pairs.shape == (0,)


def test_codes_of_nan_are_refused(isa: str) -> None:
    """As in gemm.prepare: the native products know no NaN. An expert that nobody asks for is not looked at."""
    weight = quantize.quantize_fp8_channel(randn(1, 3, 32, 64))
    weight.values.view(torch.uint8)[1, 31, 63] = 0xFF
    x, ids = randn(2, 2, 64), torch.tensor([[0], [1]], dtype=torch.int32)
    with pytest.raises(ContractError, match=r"moe.grouped_linear: weight must be finite, got FP8 codes of NaN"):
        moe.grouped_linear(x, ids, weight, impl="native")
    assert moe.grouped_linear(x, 2 * ids, weight, impl="native").isfinite().all()


def test_native_steps_serve_by_one_call(native: None) -> None:
    """The public functions take the shortcut once the first call has chosen."""
    ids, values = chosen(1, 3, 2, 4), randn(1, 3, 2, 8)
    for name, call in {
        "moe.permute": lambda: moe.permute(ids, 4),
        "moe.combine": lambda: moe.combine(values, randn(2, 3, 2), ids, 4),
        "attention.merge": lambda: attention.merge(values, randn(3, 3, 2, 4)),
    }.items():
        call()
        assert OPERATIONS[name].direct.__name__.startswith("direct_")


@pytest.mark.parametrize("normalize", [False, True])
def test_routing_by_one_call_gives_the_same(isa: str, normalize: bool) -> None:
    logits = randn(1, 5, 20)[:, :16]
    moe.route_softmax(logits, 3, normalize=normalize)  # chooses
    direct = OPERATIONS["moe.route_softmax"].direct
    want = moe.route_softmax(logits, 3, normalize=normalize, scale=2.5, impl="native")
    for have in (
        direct(logits, 3, 2.5, normalize),
        moe.route_softmax(logits, 3, normalize=normalize, scale=2.5),
    ):
        assert all(torch.equal(x, y) for x, y in zip(have, want, strict=True))
    for wrong in ((logits.bfloat16(), 3, 1.0), (logits[0], 3, 1.0), (logits.t(), 3, 1.0), (logits, 17, 1.0)):
        assert direct(*wrong, normalize) is NotImplemented
    assert direct(logits, 3, float("inf"), normalize) is NotImplemented
    with pytest.raises(ContractError, match="top_k must be from 1 to the 16 experts"):
        moe.route_softmax(logits, 0, normalize=normalize)
