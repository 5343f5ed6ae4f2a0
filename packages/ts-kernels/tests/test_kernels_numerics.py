"""Native kernels against the torch reference: awkward shapes, poisoned memory, both dtypes, every instruction set."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_kernels import activation, gemm, kv_cache, moe, norm, rope

FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
ROWS = st.sampled_from([0, 1, 2, 3, 5, 17])
WIDTHS = st.sampled_from([1, 3, 31, 63, 64, 100, 257])
Close = Callable[..., None]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slice_of(x: Tensor, columns: int) -> Tensor:
    """A column slice of a wider matrix whose other columns are NaN."""
    wide = torch.full((x.shape[0], x.shape[1] + 2 * columns), torch.nan, dtype=x.dtype)
    wide[:, columns : columns + x.shape[1]] = x
    return wide[:, columns : columns + x.shape[1]]


@given(rows=ROWS, width=WIDTHS, dtype=FLOATS, gain=FLOATS, margin=st.sampled_from([0, 5]))
def test_rms_norm(
    isa: str, assert_close: Close, rows: int, width: int, dtype: torch.dtype, gain: torch.dtype, margin: int
) -> None:
    x, weight = slice_of(randn(1, rows, width).to(dtype), margin), randn(2, width).to(gain)
    want = norm.rms_norm(x, weight, 1e-5, impl="reference")
    assert_close(norm.rms_norm(x, weight, 1e-5, impl="native"), want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(norm.rms_norm(x, weight * 1.1, 1e-5, impl="native"), want)


@given(rows=ROWS, width=WIDTHS, dtype=FLOATS, gain=FLOATS)
def test_add_rms_norm(
    isa: str, assert_close: Close, rows: int, width: int, dtype: torch.dtype, gain: torch.dtype
) -> None:
    x, residual, weight = randn(1, rows, width).to(dtype), randn(2, rows, width).to(dtype), randn(3, width).to(gain)
    want, summed = norm.add_rms_norm(x, residual.clone(), weight, 1e-6, impl="reference")
    mine = residual.clone()
    have, given_back = norm.add_rms_norm(slice_of(x, 3), mine, weight, 1e-6, impl="native")
    assert given_back is mine
    assert torch.equal(mine, summed)
    # In bf16 the norm may be taken before or after the sum is rounded.
    assert_close(have, want, dtype)


@given(
    rows=ROWS,
    heads=st.integers(1, 3),
    plain=st.sampled_from([0, 1, 32]),
    half=st.sampled_from([1, 4, 8, 21]),
    dtype=FLOATS,
)
def test_rope(isa: str, assert_close: Close, rows: int, heads: int, plain: int, half: int, dtype: torch.dtype) -> None:
    table = rope.yarn_cos_sin(2 * half, 40, 10000.0, 8.0, 16, 32.0, 1.0, 0.7, 1.0)
    positions = torch.randint(40, (rows,), generator=torch.Generator().manual_seed(0))
    x = randn(1, rows, heads, plain + 2 * half).to(dtype)
    want = rope.apply_interleaved(x.clone(), table, positions, impl="reference")
    mine = x.clone()
    assert rope.apply_interleaved(mine, table, positions, impl="native") is mine
    assert_close(mine, want)
    assert torch.equal(mine[..., :plain], x[..., :plain])


@given(rows=ROWS, width=WIDTHS, dtype=FLOATS)
def test_silu_mul(isa: str, assert_close: Close, rows: int, width: int, dtype: torch.dtype) -> None:
    x = slice_of(4 * randn(1, rows, 2 * width).to(dtype), 2)
    assert_close(activation.silu_mul(x, impl="native"), activation.silu_mul(x, impl="reference"))


def test_silu_mul_of_extremes(isa: str) -> None:
    gate = torch.tensor([[-1e4, -100.0, -88.0, 0.0, 88.0, 1e4, torch.inf, torch.nan]])
    have = activation.silu_mul(torch.cat((gate, torch.ones_like(gate)), 1), impl="native")
    want = torch.nn.functional.silu(gate)
    torch.testing.assert_close(have, want, atol=1e-30, rtol=1e-5, equal_nan=True)


@given(rows=ROWS, n=WIDTHS, k=WIDTHS, dtype=FLOATS, stored=FLOATS, out=FLOATS)
def test_linear(
    isa: str, assert_close: Close, rows: int, n: int, k: int, dtype: torch.dtype, stored: torch.dtype, out: torch.dtype
) -> None:
    x, weight = slice_of(randn(1, rows, k).to(dtype), 4), slice_of(randn(2, n, k).to(stored), 1)
    prepared = gemm.prepare(weight)
    assert prepared.format == "packed"
    assert torch.equal(prepared.dequantize(), weight)
    want = gemm.linear(x, weight, out_dtype=out, impl="reference")
    assert_close(gemm.linear(x, prepared, out_dtype=out, impl="native"), want)
    assert_close(gemm.linear(x, weight, out_dtype=out, impl="native"), want)
    assert_close(gemm.linear(x, prepared, out_dtype=out, impl="reference"), want)


@given(rows=st.sampled_from([1, 4, 33]), dtype=FLOATS)
def test_linear_row_does_not_depend_on_its_batch(isa: str, rows: int, dtype: torch.dtype) -> None:
    if isa == "amx" and dtype == torch.bfloat16:
        pytest.skip("tiles sum in another order than vectors")
    x, weight = randn(1, rows, 200).to(dtype), gemm.prepare(randn(2, 70, 200).bfloat16())
    together = gemm.linear(x, weight, impl="native")
    alone = torch.cat([gemm.linear(x[i : i + 1], weight, impl="native") for i in range(rows)])
    assert torch.equal(together, alone)


@given(rows=ROWS, hidden=WIDTHS, inter=WIDTHS, dtype=FLOATS, stored=FLOATS)
def test_mlp(
    isa: str, assert_close: Close, rows: int, hidden: int, inter: int, dtype: torch.dtype, stored: torch.dtype
) -> None:
    gate_up, down = randn(1, 2 * inter, hidden).to(stored), randn(2, hidden, inter).to(stored)
    x = randn(3, rows, hidden).to(dtype)
    weight = gemm.prepare_mlp(gate_up, down)
    assert_close(gemm.mlp(x, weight, impl="native"), gemm.mlp(x, weight, impl="reference"), dtype)


@given(rows=ROWS, width=WIDTHS, stored=FLOATS, dtype=FLOATS, ids=st.sampled_from([torch.int32, torch.int64]))
def test_gather_rows(
    isa: str, rows: int, width: int, stored: torch.dtype, dtype: torch.dtype, ids: torch.dtype
) -> None:
    table = randn(1, 9, width).to(stored)
    chosen = torch.randint(9, (rows,), generator=torch.Generator().manual_seed(0)).to(ids)
    have = gemm.gather_rows(table, chosen, dtype=dtype, impl="native")
    assert torch.equal(have, table[chosen.long()].to(dtype))


@given(
    rows=ROWS,
    shape=st.sampled_from([(16, 1, 1, 4), (16, 4, 2, 3), (24, 3, 2, 8), (384, 1, 1, 8), (256, 8, 4, 8), (2, 2, 1, 1)]),
    normalize=st.booleans(),
    coarse=st.booleans(),
)
def test_route(
    isa: str, assert_close: Close, rows: int, shape: tuple[int, int, int, int], normalize: bool, coarse: bool
) -> None:
    experts, groups, top_groups, top_k = shape
    logits, bias = randn(1, rows, experts), randn(2, experts)
    if coarse:  # many ties
        logits, bias = logits.round(), (bias * 0.1).round()
    arguments = (logits, bias, top_k, groups, top_groups, 2.5, normalize)
    weights, ids = moe.route_sigmoid(*arguments, impl="native")
    want, chosen = moe.route_sigmoid(*arguments, impl="reference")
    if not coarse:
        assert torch.equal(ids, chosen)
        assert_close(weights, want)
        return
    # With ties the choice may turn on the last bit of a sigmoid: compare the scores, which then are equal.
    assert_close(weights.sort(dim=1).values, want.sort(dim=1).values)
    assert all(len(set(row)) == top_k for row in ids.tolist())


@given(
    rows=st.sampled_from([0, 1, 2, 7, 40]),
    sizes=st.sampled_from([(4, 32, 32), (16, 96, 32), (5, 256, 128), (3, 64, 160)]),
    kind=st.sampled_from(["int4", "bf16", "fp32"]),
    dtype=FLOATS,
    with_shared=st.booleans(),
)
def test_experts(
    isa: str,
    assert_close: Close,
    rows: int,
    sizes: tuple[int, int, int],
    kind: str,
    dtype: torch.dtype,
    with_shared: bool,
) -> None:
    count, hidden, inter = sizes
    gate_up, down = randn(1, count, 2 * inter, hidden) * hidden**-0.5, randn(2, count, hidden, inter) * inter**-0.5
    if kind == "int4":
        layer = moe.prepare_experts(moe.quantize_int4(gate_up), moe.quantize_int4(down), keep_source=True)
    else:
        stored = torch.bfloat16 if kind == "bf16" else torch.float32
        layer = moe.prepare_experts(gate_up.to(stored), down.to(stored), keep_source=True)
    shared = gemm.prepare_mlp(gate_up[0].bfloat16(), down[0].bfloat16()) if with_shared else None
    x, weights = randn(3, rows, hidden).to(dtype), torch.rand(rows, 3, generator=torch.Generator().manual_seed(1))
    # Distinct experts a token, and ids outside of the layer, which are another rank's.
    ids = torch.stack(
        [torch.randperm(count + 2, generator=torch.Generator().manual_seed(r))[:3] for r in range(rows)]
        or [torch.zeros(3)]
    )
    ids = (ids[:rows] - 1).int()
    have = moe.experts(x, weights, ids, layer, shared=shared, impl="native")
    want = moe.experts(x, weights, ids, layer, shared=shared, impl="reference")
    assert_close(have, want, dtype)


def test_experts_every_nibble(isa: str, assert_close: Close) -> None:
    """Each of the 16 values in each of the 8 places of a word, through one-hot rows."""
    hidden = inter = 32
    values = torch.arange(2 * inter * hidden).view(1, 2 * inter, hidden) % 16
    words = (values.view(1, 2 * inter, hidden // 8, 8) << torch.arange(0, 32, 4)).sum(-1)
    packed = torch.where(words >= 2**31, words - 2**32, words).int()
    gate_up = moe.Int4Weight(packed, torch.full((1, 2 * inter, 1), 0.25, dtype=torch.bfloat16))
    assert torch.equal(gate_up.dequantize()[0], (values[0].float() - 8) * 0.25)
    down = moe.quantize_int4(torch.eye(hidden)[None])
    layer = moe.prepare_experts(gate_up, down, keep_source=True)
    arguments = (torch.eye(hidden), torch.ones(hidden, 1), torch.zeros(hidden, 1, dtype=torch.int32), layer)
    assert_close(moe.experts(*arguments, impl="native"), moe.experts(*arguments, impl="reference"))


@given(
    tokens=ROWS,
    latent=st.sampled_from([8, 64, 100]),
    half=st.sampled_from([1, 8, 32]),
    dtype=FLOATS,
    gain=FLOATS,
    stored=FLOATS,
    page_size=st.sampled_from([1, 4, 16]),
)
def test_write_latent(
    isa: str,
    assert_close: Close,
    tokens: int,
    latent: int,
    half: int,
    dtype: torch.dtype,
    gain: torch.dtype,
    stored: torch.dtype,
    page_size: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    table = rope.yarn_cos_sin(2 * half, 99, 50000.0, 1.0, 99, 32.0, 1.0, 1.0, 1.0)
    pages = -(-(tokens + 5) // page_size)
    slots = torch.randperm(pages * page_size, generator=generator)[:tokens]
    if tokens > 1:
        slots[1] = -1
    positions = torch.randint(99, (tokens,), generator=generator)
    kv_a = slice_of(randn(1, tokens, latent + 2 * half).to(dtype), 3)
    caches = []
    for impl in ("native", "reference"):
        cache = torch.full((pages, page_size, latent + 2 * half), torch.nan, dtype=stored)
        kv_cache.write_latent(kv_a, randn(2, latent).to(gain), 1e-5, table, positions, slots, cache, impl=impl)
        caches.append(cache)
    assert_close(*caches)
    written = (~caches[0].isnan()).all(-1).sum()
    assert written == (slots >= 0).sum()
