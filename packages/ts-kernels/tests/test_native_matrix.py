"""The native matrix kernels against float64, on every instruction set that this machine has."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

_native = pytest.importorskip("ts_kernels._native")

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
# bf16 outputs are rounded once to 8 bits; fp32 sums of a few hundred terms stay within some 1e-6 of the largest term.
RTOL = {torch.float32: 3e-6, torch.bfloat16: 5e-3}


LEVELS = [*_native.features(), "amx_emulated"]


@pytest.fixture(params=[(isa, threads) for isa in LEVELS for threads in (1, 2)], ids=str)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    isa, threads = request.param
    _native.set_isa(isa)
    _native.set_threads(threads)
    yield isa
    _native.set_isa("auto")
    _native.set_threads(2)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Relative to the largest magnitude of the row, which is what rounding errors of sums scale with."""
    got64, scale = got.double(), want.abs().amax(-1, keepdim=True)
    assert torch.isfinite(got64).all()
    assert ((got64 - want).abs() / scale).max() <= RTOL[got.dtype]


def linear(weight: torch.Tensor, x: torch.Tensor, out_dtype: torch.dtype | None = None) -> torch.Tensor:
    n = weight.shape[0]
    packed = dense_linear(weight)
    out = poisoned(x.shape[0], n + 3, dtype=out_dtype or x.dtype)
    packed.run(x.data_ptr(), x.stride(0), x.shape[0], DTYPES[x.dtype], out.data_ptr(), out.stride(0), DTYPES[out.dtype])
    assert out[:, n:].isnan().all()
    return out[:, :n]


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [(1, 208, 256), (1, 17, 33), (2, 100, 63), (5, 77, 7), (13, 130, 64), (64, 33, 101), (300, 95, 40)],
)
def test_linear(engine: str, rows: int, n: int, k: int, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    torch.manual_seed(rows * n + k)
    weight = torch.randn(n, k).to(weight_dtype)
    x = torch.randn(rows, k + 5).to(x_dtype)[:, 2 : 2 + k]
    want = x.double() @ weight.double().T
    assert_close(linear(weight, x), want)
    assert_close(linear(weight, x, torch.float32), want)


def test_linear_of_a_large_layer_is_split_and_whole(engine: str) -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(2000, 256).bfloat16(), torch.randn(3, 256)
    assert_close(linear(weight, x), x.double() @ weight.double().T)


def test_a_row_does_not_depend_on_its_batch(engine: str) -> None:
    torch.manual_seed(2)
    for k, dtype in ((2600, torch.float32), (2100, torch.bfloat16)):  # more than is summed at a time
        weight, x = torch.randn(208, k).bfloat16(), torch.randn(100, k).to(dtype)
        whole = linear(weight, x, torch.float32)
        assert_close(whole, x.double() @ weight.double().T)
        if "amx" in engine and dtype == torch.bfloat16:
            continue  # tiles serve more rows only, and add up in another order
        for rows in (1, 2, 7, 16, 47, 48, 49):
            assert torch.equal(linear(weight, x[:rows], torch.float32), whole[:rows])


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_plain_weight(engine: str, weight_dtype: torch.dtype) -> None:
    weight, x = torch.randn(50, 70).to(weight_dtype)[:, 3:60], torch.randn(4, 57)
    out = poisoned(4, 50)
    _native.linear(
        x.data_ptr(), 57, 4, 0, weight.data_ptr(), weight.stride(0), DTYPES[weight_dtype], 50, 57, out.data_ptr(), 50, 0
    )
    assert_close(out, x.double() @ weight.double().T)


def gated(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    gate, up = (x.double() @ gate_up.double().T).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up) @ down.double().T


def packed_mlp(gate_up: torch.Tensor, down: torch.Tensor) -> "_native.PackedMlp":
    return _native.PackedMlp(dense_linear(gate_up), dense_linear(down))


@pytest.mark.parametrize("rows", [1, 5, 60, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlp(engine: str, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    gate_up, down = torch.randn(2 * 45, 70) / 8, torch.randn(70, 45) / 7
    x, out = torch.randn(rows, 70).to(dtype), poisoned(rows, 70, dtype=dtype)
    packed_mlp(gate_up, down).run(x.data_ptr(), x.stride(0), rows, DTYPES[dtype], out.data_ptr())
    assert_close(out, gated(x, gate_up, down))


def int4(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed words, scales, and the weights that they stand for."""
    experts, n, k = shape
    values = torch.randint(-8, 8, shape)
    scales = (torch.rand(experts, n, k // 32) / 8 + 0.01).bfloat16()
    nibbles = (values + 8).numpy().astype(np.uint32).reshape(experts, n, k // 8, 8)
    words = np.bitwise_or.reduce(nibbles << (4 * np.arange(8, dtype=np.uint32)), axis=-1).astype(np.uint32)
    dense = values.double() * scales.double().repeat_interleave(32, -1)
    return torch.from_numpy(words.view(np.int32).copy()), scales, dense


def int4_linear(words: torch.Tensor, scales: torch.Tensor) -> "_native.PackedLinear":
    n, k = words.shape[0], words.shape[1] * 8
    return _native.PackedLinear.from_quantized(
        format=2,
        n=n,
        k=k,
        in_turn=False,
        codes=words.data_ptr(),
        code_stride=k // 2,
        flip=0x88888888,
        scales=scales.data_ptr(),
        scale_type=1,
        scale_stride=k // 32,
        scale_rows=1,
        group=32,
        row_scales=0,
        row_scale_stride=0,
        zeros=0,
        zero_stride=0,
    )


def dense_linear(weight: torch.Tensor) -> "_native.PackedLinear":
    return _native.PackedLinear(weight.data_ptr(), weight.stride(0), DTYPES[weight.dtype], *weight.shape)


def routed(
    x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for row in range(x.shape[0]):
        for weight, expert in zip(weights[row].tolist(), ids[row].tolist(), strict=True):
            if 0 <= expert < gate_up.shape[0]:
                out[row] += weight * gated(x[row], gate_up[expert], down[expert])
    return out


@pytest.mark.parametrize("form", ["int4", "bf16", "fp32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
def test_experts(engine: str, rows: int, dtype: torch.dtype, form: str) -> None:
    torch.manual_seed(rows)
    experts, inter, dim, top_k = 6, 32, 96, 3
    if form == "int4":
        (gw, gs, gate_up), (dw, ds, down) = int4((experts, 2 * inter, dim)), int4((experts, dim, inter))
        packed = _native.PackedExperts([*map(int4_linear, gw, gs)], [*map(int4_linear, dw, ds)])
    else:
        kind = torch.bfloat16 if form == "bf16" else torch.float32
        gate_up, down = (
            (torch.randn(experts, 2 * inter, dim) / 8).to(kind),
            (torch.randn(experts, dim, inter) / 8).to(kind),
        )
        packed = _native.PackedExperts([*map(dense_linear, gate_up)], [*map(dense_linear, down)])
    shared_up, shared_down = torch.randn(2 * 40, dim) / 8, torch.randn(dim, 40) / 8
    x = torch.randn(rows, dim).to(dtype)
    weights = torch.rand(rows, top_k)
    ids = torch.stack([torch.randperm(experts)[:top_k] for _ in range(rows)]).int()
    ids[0, 0] = -1 if rows > 1 else ids[0, 0]
    ids[-1, 1] = experts + 1
    want = routed(x, gate_up, down, weights, ids)
    for shared in (None, packed_mlp(shared_up, shared_down)):
        out = poisoned(rows, dim, dtype=dtype)
        packed.run(
            x.data_ptr(), dim, rows, DTYPES[dtype], weights.data_ptr(), ids.data_ptr(), top_k, shared, out.data_ptr()
        )
        assert_close(out, want if shared is None else want + gated(x, shared_up, shared_down))


def test_experts_with_every_row_at_one_expert(engine: str) -> None:
    torch.manual_seed(3)
    (gw, gs, gate_up), (dw, ds, down) = int4((4, 64, 64)), int4((4, 64, 32))
    packed = _native.PackedExperts([*map(int4_linear, gw, gs)], [*map(int4_linear, dw, ds)])
    x, weights, ids, out = torch.randn(300, 64), torch.rand(300, 1), torch.full((300, 1), 2).int(), poisoned(300, 64)
    packed.run(x.data_ptr(), 64, 300, 0, weights.data_ptr(), ids.data_ptr(), 1, None, out.data_ptr())
    assert_close(out, routed(x, gate_up, down, weights, ids))


def test_sizes_are_checked() -> None:
    weight = torch.zeros(4, 8)
    with pytest.raises(ValueError, match="weight_stride"):
        _native.PackedLinear(weight.data_ptr(), 7, 0, 4, 8)
    with pytest.raises(ValueError, match="dtype"):
        _native.PackedLinear(weight.data_ptr(), 8, 2, 4, 8)
    with pytest.raises(ValueError, match="at least one"):
        _native.PackedExperts([], [])
    with pytest.raises(ValueError, match="alike for all"):
        _native.PackedExperts([dense_linear(torch.zeros(8, 4))], [dense_linear(torch.zeros(5, 4))])
    with pytest.raises(ValueError, match="gate_up"):
        packed_mlp(torch.zeros(8, 4), torch.zeros(5, 4))
    codes, scales = torch.zeros(16, 96, dtype=torch.uint8), torch.ones(16, 4)
    quantized = {
        "n": 16, "k": 192, "in_turn": False, "codes": codes.data_ptr(), "code_stride": 96, "flip": 0,
        "scales": scales.data_ptr(), "scale_type": 0, "scale_stride": 4, "scale_rows": 1, "row_scales": 0,
        "row_scale_stride": 0, "zeros": 0, "zero_stride": 0,
    }  # fmt: skip
    for format, group in ((6, 48), (6, 0), (2, 16)):  # FP4 and INT4: no block of 32 may have two scales
        with pytest.raises(ValueError, match=r"group must be (positive|a multiple of 32, or 16 with FP4)"):
            _native.PackedLinear.from_quantized(format=format, group=group, **quantized)
    with pytest.raises(ValueError, match="cannot run 'sse9'"):
        _native.set_isa("sse9")
