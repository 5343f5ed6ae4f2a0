"""Products on tile registers: emulated everywhere, and AMX's own where the machine has them.

Vectors and tiles sum in different orders, so a product of bf16 rows by one differs from the same by the other in some
element as soon as there are enough of them: that is how the tests see which of the two computed it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from ts_kernels import gemm, moe

_native = pytest.importorskip("ts_kernels._native")

TILES = {"amx_emulated": "portable"} | ({"amx": "avx512"} if "amx" in _native.features() else {})
FEWEST = {"bf16": 8, "int4": 16}  # rows that go through tiles
FP32_SUM = 3e-6  # of the largest magnitude: sums of a few hundred terms in fp32
Close = Callable[..., None]


@pytest.fixture(params=TILES)
def tiles(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_vectors(tiles: str, product: Callable[[], Tensor]) -> Tensor:
    _native.set_isa(TILES[tiles])
    result = product()
    _native.set_isa(tiles)
    return result


def error(have: Tensor, want: Tensor) -> float:
    return float((have.double() - want).abs().max() / want.abs().max())


def int4_weight(seed: int, experts: int, n: int, k: int) -> tuple[moe.Int4Weight, Tensor]:
    """A compressed-tensors weight, and the numbers that it stands for."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, (experts, n, k), generator=generator)
    scale = (torch.rand(experts, n, k // 32, generator=generator) / 8 + 0.01).bfloat16()
    nibbles = (values + 8).numpy().astype(np.uint32).reshape(experts, n, k // 8, 8)
    words = np.bitwise_or.reduce(nibbles << (4 * np.arange(8, dtype=np.uint32)), axis=-1).astype(np.uint32)
    packed = torch.from_numpy(words.view(np.int32).copy())
    return moe.Int4Weight(packed, scale), values.double() * scale.double().repeat_interleave(32, -1)


# Remainders of rows (16, and blocks of 32), of columns (16, 32, and a task's 64) and of depth (2, 32 and 1024).
@pytest.mark.parametrize("rows", [8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 70, 257])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 32), (17, 31), (33, 33), (50, 64), (79, 95), (130, 7)])
def test_linear(tiles: str, rows: int, n: int, k: int) -> None:
    x, weight = randn(rows, rows, k + 3).bfloat16()[:, 2 : 2 + k], randn(n, n, k).bfloat16()
    have = gemm.linear(x, gemm.prepare(weight), out_dtype=torch.float32)
    assert error(have, x.double() @ weight.double().T) <= FP32_SUM


@pytest.mark.parametrize("rows", range(1, 71))
def test_every_number_of_rows(tiles: str, rows: int) -> None:
    x, weight = randn(1, rows, 100).bfloat16(), randn(2, 40, 100).bfloat16()
    have = gemm.linear(x, gemm.prepare(weight), out_dtype=torch.float32)
    assert error(have, x.double() @ weight.double().T) <= FP32_SUM


@pytest.mark.parametrize("k", [1024, 1025, 1056, 2500])
def test_depth_beyond_one_block(tiles: str, k: int) -> None:
    x, weight = randn(1, 35, k).bfloat16(), randn(2, 35, k).bfloat16()
    have = gemm.linear(x, gemm.prepare(weight), out_dtype=torch.float32)
    assert error(have, x.double() @ weight.double().T) <= FP32_SUM


def experts_of(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for row, choices in enumerate(ids.tolist()):
        for weight, expert in zip(weights[row].double(), choices, strict=True):
            gate, up = (gate_up[expert] @ x[row].double()).chunk(2)
            out[row] += weight * (down[expert] @ (torch.nn.functional.silu(gate) * up))
    return out


@pytest.mark.parametrize("rows", [1, 7, 16, 33, 70, 150])
@pytest.mark.parametrize(("inter", "hidden"), [(32, 64), (96, 160)])
@pytest.mark.parametrize("form", ["int4", "bf16"])
def test_experts(tiles: str, assert_close: Close, form: str, rows: int, inter: int, hidden: int) -> None:
    experts = 2
    if form == "int4":
        gate_up, gate_up_wide = int4_weight(1, experts, 2 * inter, hidden)
        down, down_wide = int4_weight(2, experts, hidden, inter)
        layer = moe.prepare_experts(gate_up, down)
    else:
        first, second = (randn(1, experts, 2 * inter, hidden) / 8).bfloat16(), randn(2, experts, hidden, inter) / 8
        gate_up_wide, down_wide = first.double(), second.bfloat16().double()
        layer = moe.prepare_experts(first, second.bfloat16())
    x, weights = randn(3, rows, hidden).bfloat16(), torch.rand(rows, 1, generator=torch.Generator().manual_seed(4))
    ids = (torch.arange(rows) % 7 == 3).int()[:, None]  # one expert with many rows, one with few
    assert_close(
        moe.experts(x, weights, ids, layer),
        experts_of(x, gate_up_wide, down_wide, weights, ids).bfloat16(),
        torch.bfloat16,
    )


def test_between_two_layers_nothing_is_rounded_to_bf16(tiles: str) -> None:
    """An MLP's own activations go through tiles as two bf16 numbers each: its errors stay far below one's 2^-9."""
    gate_up, down = (randn(1, 64, 128) / 8).bfloat16(), randn(3, 128, 32).bfloat16()
    x = randn(2, 32, 128).bfloat16()
    mlp = gemm.prepare_mlp(gate_up, down)
    have = gemm.mlp(x, mlp)
    exact = by_vectors(tiles, lambda: gemm.mlp(x.float(), mlp))
    assert (have == exact.bfloat16()).float().mean() > 0.95


def test_rows_on_tiles_do_not_depend_on_their_batch(tiles: str) -> None:
    x, weight = randn(1, 300, 1100).bfloat16(), gemm.prepare(randn(2, 70, 1100).bfloat16())
    whole = gemm.linear(x, weight, out_dtype=torch.float32)
    for first, rows in ((0, 8), (3, 16), (100, 33), (1, 299)):
        assert torch.equal(gemm.linear(x[first : first + rows], weight, out_dtype=torch.float32), whole[first:][:rows])


def is_on_tiles(tiles: str, product: Callable[[], Tensor]) -> bool:
    have, by_vector = product(), by_vectors(tiles, product)
    assert error(have, by_vector.double()) <= FP32_SUM
    return not torch.equal(have, by_vector)


def test_enough_bf16_rows_go_through_tiles(tiles: str) -> None:
    weight, wide = gemm.prepare(randn(1, 70, 512).bfloat16()), gemm.prepare(randn(1, 70, 512))
    for rows in (1, 2, FEWEST["bf16"] - 1, FEWEST["bf16"], 100):
        x = randn(2, rows, 512).bfloat16()
        served = is_on_tiles(tiles, lambda x=x: gemm.linear(x, weight, out_dtype=torch.float32))
        assert served == (rows >= FEWEST["bf16"])
        assert not is_on_tiles(tiles, lambda x=x: gemm.linear(x.float(), weight))
        assert not is_on_tiles(tiles, lambda x=x: gemm.linear(x, wide, out_dtype=torch.float32))


def test_subnormal_numbers_count_as_zero(tiles: str) -> None:
    x, weight = torch.full((8, 32), 2.0**-130).bfloat16(), torch.full((16, 32), 2.0**100).bfloat16()
    prepared = gemm.prepare(weight)
    assert torch.equal(gemm.linear(x, prepared), torch.zeros(8, 16).bfloat16())
    assert (gemm.linear(x[:1], prepared) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [FEWEST["int4"] - 1, FEWEST["int4"]])
def test_enough_int4_rows_go_through_tiles(tiles: str, rows: int, dtype: torch.dtype) -> None:
    layer = moe.prepare_experts(int4_weight(1, 1, 512, 256)[0], int4_weight(2, 1, 256, 256)[0])
    x, ids = randn(3, rows, 256).to(dtype), torch.zeros(rows, 1).int()
    have = moe.experts(x, torch.ones(rows, 1), ids, layer)
    vectors = by_vectors(tiles, lambda: moe.experts(x, torch.ones(rows, 1), ids, layer))
    assert torch.equal(have, vectors) == (dtype == torch.float32 or rows < FEWEST["int4"])


def test_the_self_check_passes_everywhere() -> None:
    assert all(_native.check_isa(name) for name in (*_native.features(), "amx_emulated"))


def test_emulation_is_never_chosen_unasked() -> None:
    _native.set_isa("auto")
    assert _native.isa() == _native.features()[-1]
    assert "amx_emulated" not in _native.features()


@pytest.mark.skipif(_native.amx_refusal().startswith("not built"), reason="not built")
def test_the_instruction_itself_is_in_the_extension() -> None:
    product = bytes.fromhex("c4e24a5cc4")  # tdpbf16ps tmm0, tmm4, tmm6
    assert product in Path(_native.__file__).read_bytes()


@pytest.mark.skipif("amx" in _native.features(), reason="this machine has AMX")
def test_without_amx_it_says_why() -> None:
    assert _native.amx_refusal()
    with pytest.raises(ValueError, match="cannot run 'amx'"):
        _native.set_isa("amx")
