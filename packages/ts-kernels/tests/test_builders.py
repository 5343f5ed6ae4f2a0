"""Weights made of runs of their rows are those made of all rows at once, in every format, packed or kept."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from ts_kernels import ContractError, _native, gemm, mla, moe, quantize
from ts_kernels.ops.quantize.base import QuantizedWeight

FORMATS: dict[str, Any] = {
    "bf16": lambda w: w.bfloat16(),
    "fp32": lambda w: w,
    "int4": quantize.quantize_int4,
    "int4-zp": lambda w: quantize.quantize_int4(w, 64, zero_point=True),
    "int8": quantize.quantize_int8,
    "fp8-block": quantize.quantize_fp8_block,
    "fp8-channel": quantize.quantize_fp8_channel,
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": lambda w: by_row(quantize.quantize_nvfp4(w)),
}
BOTH = pytest.mark.parametrize("keep", [False, True], ids=["packed", "kept"])
EVERY = pytest.mark.parametrize("name", FORMATS)


def by_row(weight: quantize.Nvfp4Weight) -> quantize.Nvfp4Weight:
    return quantize.Nvfp4Weight(weight.packed, weight.scale, weight.row_scale().contiguous())


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def run_of(source: gemm.Source, first: int, last: int) -> gemm.Source:
    """Rows of a source, as views."""
    if not isinstance(source, QuantizedWeight):
        return source[first:last]
    units = {"scale_inv": 128, "zero_point": 8}
    tensors = {}
    for name, tensor in source.tensors().items():
        unit = units.get(name, 1)
        tensors[name] = tensor[first // unit : -(-last // unit)]
    return type(source)(**tensors)


def bounds(rows: int) -> list[tuple[int, int]]:
    """Runs that blocks of 128 divide, in no order."""
    edges = [*range(0, rows, 128), rows]
    runs = list(pairwise(edges))
    random.Random(0).shuffle(runs)
    return runs


@BOTH
@EVERY
def test_a_linear_weight_of_runs_is_that_of_all_rows(name: str, keep: bool) -> None:
    source = FORMATS[name](weight(600, 128))
    whole = gemm.prepare(source, bias=weight(600), keep_source=keep)
    builder = gemm.LinearBuilder(600, keep_source=keep)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda run: builder.put(run[0], run_of(source, *run)), bounds(600)))
    made = builder.finish(bias=weight(600))
    assert (made.shape, made.kind, made.format, made.nbytes) == (whole.shape, whole.kind, whole.format, whole.nbytes)
    assert torch.equal(made.dequantize(), whole.dequantize())
    x = weight(3, 128)
    assert torch.equal(gemm.linear(x, made), gemm.linear(x, whole))


def test_kept_runs_share_no_block_of_scales() -> None:
    """A packed run has the scales of its own rows; one that is kept beside others would take theirs."""
    parts = [quantize.quantize_fp8_block(factor * weight(64, 128)) for factor in (1.0, 30.0)]
    builder = gemm.LinearBuilder(128)
    for first, part in zip((0, 64), parts, strict=True):
        builder.put(first, part)
    assert torch.equal(builder.finish().dequantize(), torch.cat([part.dequantize() for part in parts]))
    linear, experts = gemm.LinearBuilder(128, keep_source=True), moe.ExpertsBuilder(1, 128, 128, keep_source=True)
    with pytest.raises(ContractError, match="rows must be from a multiple of 128 to one, or to 128, got 0 to 64"):
        linear.put(0, parts[0])
    with pytest.raises(ContractError, match="down must be from a multiple of 128 to one, or to 128, got 64 to 128"):
        experts.put("down", 0, 64, parts[0])


@BOTH
def test_runs_may_have_factors_of_their_own(keep: bool) -> None:
    """As two NVFP4 matrices that are joined have, each with one for all of its rows."""
    parts = [quantize.quantize_nvfp4(factor * weight(128, 64)) for factor in (1.0, 30.0)]
    builder = gemm.LinearBuilder(256, keep_source=keep)
    for first, part in zip((128, 0), reversed(parts), strict=True):
        assert part.global_scale.dim() == 0
        builder.put(first, part)
    joined = quantize.Nvfp4Weight(
        torch.cat([part.packed for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat([part.row_scale() for part in parts]),
    )
    assert torch.equal(builder.finish().dequantize(), gemm.prepare(joined, keep_source=keep).dequantize())


@BOTH
@EVERY
@pytest.mark.parametrize("interleaved", [False, True])
def test_experts_of_runs_are_those_of_whole_stacks(name: str, interleaved: bool, keep: bool) -> None:
    experts, hidden, inter = 3, 256, 128
    gate_up, down = FORMATS[name](weight(experts, 2 * inter, hidden)), FORMATS[name](weight(experts, hidden, inter))
    biases: dict[str, Any] = {"gate_up_bias": weight(experts, 2 * inter), "down_bias": weight(experts, hidden)}
    whole = moe.prepare_experts(gate_up, down, **biases, interleaved=interleaved, keep_source=keep)
    builder = moe.ExpertsBuilder(experts, hidden, inter, interleaved=interleaved, keep_source=keep)
    runs = [
        (matrix, expert, *run)
        for expert in (2, 0, 1)
        for matrix, rows in (("gate_up", 2 * inter), ("down", hidden))
        for run in ([(0, rows)] if interleaved and matrix == "gate_up" else bounds(rows))
    ]
    stacks = {"gate_up": gate_up, "down": down}
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda r: builder.put(r[0], r[1], r[2], run_of(stacks[r[0]][r[1]], *r[2:])), runs))
    made = builder.finish(**biases)
    assert (made.format, made.inter, made.dtype) == (whole.format, whole.inter, whole.dtype)
    x, ids = weight(4, hidden), torch.tensor([[0, 1], [2, 0], [1, 2], [2, 1]], dtype=torch.int32)
    weights = torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moe.experts(x, weights, ids, made), moe.experts(x, weights, ids, whole))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_latent_projection_of_heads_is_that_of_all(dtype: torch.dtype, keep: bool) -> None:
    heads, nope, v, latent, rotary = 5, 24, 40, 48, 8
    kv_b = (weight(heads * (nope + v), latent) / 7).to(dtype)
    whole = mla.prepare_kv_b(kv_b, heads, nope, v, keep_source=keep)
    builder = mla.KvBBuilder(heads, nope, v, keep_source=keep)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda run: builder.put(run[0], kv_b[run[0] * 64 : run[1] * 64]), ((3, 5), (0, 1), (1, 3))))
    made = builder.finish()
    assert (made.format, made.dtype, made.latent) == (whole.format, whole.dtype, whole.latent)
    cache, lengths = weight(4, 16, latent + rotary), torch.tensor([50, 33], dtype=torch.int32)
    tables, q = torch.tensor([[2, 0, 3, 1], [1, 3, 0, 2]], dtype=torch.int32), weight(7, heads, nope + rotary)
    assert torch.equal(*(mla.decode(q[:2], cache, w, tables, lengths, 0.2) for w in (made, whole)))
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    assert torch.equal(*(mla.prefill(q, cache, w, starts, tables, lengths, 0.2) for w in (made, whole)))


def test_heads_that_do_not_fit_are_refused() -> None:
    builder = mla.KvBBuilder(3, 8, 8)
    for first, rows in ((0, 8), (2, 32), (-1, 16)):
        with pytest.raises(ContractError, match="16 rows each"):
            builder.put(first, weight(rows, 32))
    builder.put(0, weight(16, 32))
    for other in (weight(16, 64), weight(16, 32).bfloat16()):
        with pytest.raises(ContractError, match="of one form"):
            builder.put(1, other)


@BOTH
@EVERY
def test_a_weight_is_read_back_rounded(name: str, keep: bool) -> None:
    made = gemm.prepare(FORMATS[name](weight(104, 192)), keep_source=keep)
    assert torch.equal(made.dequantize(torch.bfloat16), made.dequantize().bfloat16())
    assert torch.equal(made.dequantize(torch.float32), made.dequantize().float())


def test_runs_that_do_not_fit_are_refused() -> None:
    builder = gemm.LinearBuilder(100)
    for first, rows in ((8, 16), (0, 17), (96, 16)):
        with pytest.raises(ContractError, match="multiple of 16"):
            builder.put(first, weight(rows, 32))
    builder.put(0, weight(32, 32))
    for other in (weight(16, 64), weight(16, 32).bfloat16(), quantize.quantize_int4(weight(16, 32))):
        with pytest.raises(ContractError, match="of one form"):
            builder.put(32, other)
    experts = moe.ExpertsBuilder(2, 64, 32)
    for place, message in (
        (("gate_up", 0, 0, weight(64, 32)), r"gate_up must be \[.., 64\]"),
        (("gate_up", 0, 8, weight(32, 64)), "gate_up must be from a multiple of 16"),
        (("up", 0, 0, weight(64, 64)), "matrix must be gate_up or down"),
        (("down", 2, 0, weight(64, 32)), "expert must be from 0 to 1"),
    ):
        with pytest.raises(ContractError, match=message):
            experts.put(*place)
    with pytest.raises(ContractError, match="gate_up must be all of 64 rows, as they lie in turn, got 32"):
        moe.ExpertsBuilder(2, 64, 32, interleaved=True).put("gate_up", 0, 0, weight(32, 64))


@BOTH
def test_rows_that_are_missing_at_the_end_are_told(keep: bool) -> None:
    linear, heads = gemm.LinearBuilder(100, keep_source=keep), mla.KvBBuilder(3, 8, 8, keep_source=keep)
    experts = moe.ExpertsBuilder(2, 64, 32, keep_source=keep)
    for builder, message in (
        (linear, "rows must be 100 rows before the end, got none of 0 to 100"),
        (heads, "kv_b must be 48 rows before the end, got none of 0 to 48"),
        (experts, "gate_up must be 64 rows of expert 0 before the end, got none of 0 to 64"),
    ):
        with pytest.raises(ContractError, match=message):
            builder.finish()
    for first in (64, 0):
        linear.put(first, weight(32, 32))
    heads.put(1, weight(16, 32))
    for expert in (0, 1):
        experts.put("gate_up", expert, 0, weight(64, 64))
    experts.put("down", 0, 0, weight(64, 32))
    experts.put("down", 1, 0, weight(48, 32))
    for builder, message in (
        (linear, "100 .* got none of 32 to 64"),
        (heads, "48 .* got none of 0 to 16"),
        (experts, "down must be 64 rows of expert 1 .* got none of 48 to 64"),
    ):
        with pytest.raises(ContractError, match=message):
            builder.finish()
    linear.put(32, weight(32, 32))
    with pytest.raises(ContractError, match="got none of 96 to 100"):
        linear.finish()


@BOTH
def test_rows_that_come_twice_are_refused(keep: bool) -> None:
    linear, heads = gemm.LinearBuilder(100, keep_source=keep), mla.KvBBuilder(3, 8, 8, keep_source=keep)
    experts, runs = moe.ExpertsBuilder(2, 64, 32, keep_source=keep), gemm.Runs()
    linear.put(0, weight(48, 32), runs=runs)
    heads.put(1, weight(16, 32))
    experts.put("gate_up", 0, 0, weight(32, 64))
    for put, message in (
        (lambda: linear.put(0, weight(48, 32)), "rows must be rows that have not come yet, got 0 to 48"),
        (lambda: linear.put(32, weight(32, 32)), "rows must be .* got 32 to 64"),
        (lambda: heads.put(0, weight(32, 32)), "kv_b must be .* got 0 to 32"),
        (lambda: experts.put("gate_up", 0, 16, weight(16, 64)), "gate_up must be .* of expert 0 .* got 16 to 32"),
    ):
        for _ in range(2):
            with pytest.raises(ContractError, match=message):
                put()
    runs.pack()
    linear.put(48, weight(52, 32))
    assert torch.equal(linear.finish().dequantize(), torch.cat((weight(48, 32), weight(52, 32))))


@BOTH
def test_rows_that_are_refused_have_not_come(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = gemm.LinearBuilder(64, keep_source=keep)

    def bring(runs: gemm.Runs | None) -> None:
        linear.put(32, weight(32, 32), runs=runs)
        if runs is not None:
            runs.pack()

    linear.put(0, weight(32, 32))
    with pytest.raises(ContractError, match="of one form"):
        linear.put(32, weight(32, 32).bfloat16())
    with monkeypatch.context() as patch:  # whatever else goes wrong
        patch.setattr(_native, "pack_runs", lambda runs: 1 / 0)
        patch.setattr("ts_kernels.ops.gemm.builder.put_run", lambda *run: 1 / 0)
        for runs in (None, gemm.Runs()):
            with pytest.raises(ZeroDivisionError):
                bring(runs)
    with pytest.raises(ContractError, match="got none of 32 to 64"):
        linear.finish()
    linear.put(32, weight(32, 32))
    assert torch.equal(linear.finish().dequantize(), weight(32, 32).repeat(2, 1))


@BOTH
def test_a_finished_weight_stays_as_it_is(keep: bool) -> None:
    linear, heads = gemm.LinearBuilder(32, keep_source=keep), mla.KvBBuilder(3, 8, 8, keep_source=keep)
    experts = moe.ExpertsBuilder(1, 64, 32, keep_source=keep)
    puts: dict[Any, list[tuple[Any, ...]]] = {
        linear: [(0, weight(32, 32))],
        heads: [(0, weight(48, 32))],
        experts: [("gate_up", 0, 0, weight(64, 64)), ("down", 0, 0, weight(64, 32))],
    }
    for builder, given in puts.items():
        for arguments in given:
            builder.put(*arguments)
        if builder is linear:
            with pytest.raises(ContractError, match="bias must be"):  # it is not finished by that
                builder.finish(bias=weight(31))
        builder.finish()
        for arguments in given:
            with pytest.raises(ContractError, match="put must be called before finish"):
                builder.put(*arguments)
        with pytest.raises(ContractError, match="finish must be called once"):
            builder.finish()


def test_rows_that_are_not_packed_yet_are_not_finished() -> None:
    linear, experts, runs = gemm.LinearBuilder(64), moe.ExpertsBuilder(1, 64, 32), gemm.Runs()
    linear.put(32, weight(32, 32))
    linear.put(0, weight(32, 32), runs=runs)
    experts.put("gate_up", 0, 0, weight(64, 64), runs=runs)
    experts.put("down", 0, 0, weight(64, 32), runs=runs)
    for builder, message in (
        (linear, r"rows must be packed \(Runs.pack\) before the end, got 0 to 32 that are not"),
        (experts, r"gate_up of expert 0 must be packed"),
    ):
        with pytest.raises(ContractError, match=message):
            builder.finish()
    runs.pack()
    experts.finish()
    assert torch.equal(linear.finish().dequantize(), weight(32, 32).repeat(2, 1))


@pytest.mark.parametrize("wrong", [-1, 0, 1.5, "x", None, 2**31])
def test_sizes_that_are_none_are_refused(wrong: Any) -> None:
    for make, sizes in (
        (gemm.LinearBuilder, {"n": 64}),
        (mla.KvBBuilder, {"heads": 3, "nope": 8, "v": 8}),
        (moe.ExpertsBuilder, {"experts": 2, "hidden": 64, "inter": 32}),
    ):
        for name in sizes:
            with pytest.raises(ContractError, match=f": {name} must be"):
                make(**{**sizes, name: wrong})


def test_arguments_of_other_types_are_named() -> None:
    linear, heads, experts = gemm.LinearBuilder(64), mla.KvBBuilder(3, 8, 8), moe.ExpertsBuilder(2, 64, 32)
    rows: Any
    for first in (None, 0.0, "a", [0]):
        for put in (
            lambda at: linear.put(at, weight(32, 32)),
            lambda at: heads.put(at, weight(16, 32)),
            lambda at: experts.put("down", 0, at, weight(64, 32)),
        ):
            with pytest.raises(ContractError, match="first must be a whole number"):
                put(first)
    for rows in (None, "a", 1.0, [[1.0]]):
        for call, name in (
            (lambda given: linear.put(0, given), "rows"),
            (lambda given: heads.put(0, given), "kv_b"),
            (lambda given: experts.put("down", 0, 0, given), "down"),
        ):
            with pytest.raises(ContractError, match=f": {name} must be a tensor"):
                call(rows)
    for expert in (None, 0.5, "a"):
        with pytest.raises(ContractError, match="expert must be a whole number"):
            experts.put("down", expert, 0, weight(64, 32))  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"runs must be gemm\.Runs or None"):
        linear.put(0, weight(64, 32), runs=[])  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"runs must be gemm\.Runs or None"):
        experts.put("down", 0, 0, weight(64, 32), runs=[])  # type: ignore[arg-type]
    linear.put(0, weight(64, 32))
    with pytest.raises(ContractError, match="bias must be a tensor"):
        linear.finish(bias="a")  # type: ignore[arg-type]


def test_codes_of_nan_are_refused_in_any_run() -> None:
    source = quantize.quantize_fp8_channel(weight(64, 32))
    source.values.view(torch.uint8)[40, 3] = 0x7F
    builder = gemm.LinearBuilder(64)
    builder.put(0, run_of(source, 0, 32))
    builder.put(32, run_of(source, 32, 64))
    experts = moe.ExpertsBuilder(1, 32, 32)
    experts.put("gate_up", 0, 0, source)
    experts.put("down", 0, 0, run_of(source, 0, 32))
    with pytest.raises(ContractError, match="rows must be finite, got FP8 codes of NaN"):
        builder.finish()
    with pytest.raises(ContractError, match="gate_up must be finite, got FP8 codes of NaN"):
        experts.finish()


def test_runs_are_packed_together_when_they_are_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several weights in one call, copies that a run needs included."""
    sources = [FORMATS["int4"](weight(64, 128)), FORMATS["nvfp4"](weight(64, 128)), weight(128, 64).T]
    builders, runs = [gemm.LinearBuilder(64) for _ in sources], gemm.Runs()
    for first in (32, 0):
        for builder, source in zip(builders, sources, strict=True):
            builder.put(first, run_of(source, first, first + 32), runs=runs)
    calls: list[int] = []

    def watched(given: list["_native.Run"], pack: Callable[..., None] = _native.pack_runs) -> None:
        calls.append(len(given))
        pack(given)

    monkeypatch.setattr(_native, "pack_runs", watched)
    runs.pack()
    runs.pack()
    assert calls == [6]
    for builder, source in zip(builders, sources, strict=True):
        assert torch.equal(builder.finish().dequantize(), gemm.prepare(source).dequantize())
