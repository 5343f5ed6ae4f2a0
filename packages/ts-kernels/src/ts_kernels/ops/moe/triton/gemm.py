"""The grouped product: every pair's row times its expert's matrix, for every format of weights.

Legend: P pairs, N rows of a matrix, K columns, I = N / 2 (gated), M pairs of a block.

Products are transposed, [N, K] x [K, M]: the weights come from registers, where codes become numbers, and decode's few
pairs lie along the side of the tensor core that may be narrow. A gated tile holds half gate rows, half up rows, and
leaves as one activated half.
"""

# ruff: noqa: SIM108, SIM109, PLR1714 (Triton drops a branch on a constant, and only a plain one)
import triton
import triton.language as tl

from ...activation.triton import gated_of
from .decode import e2m1_of, e4m3_of, e8m0_of, int4_of, int8_of

# FORMAT
DENSE, INT4, MXFP4, NVFP4, FP8_BLOCK, FP8_CHANNEL, INT8_ROW, INT8_GROUP = (tl.constexpr(i) for i in range(8))


@triton.jit
def by_half(scales, BLOCK_N: tl.constexpr, GROUPS: tl.constexpr):
    """A span's scales [BLOCK_N, 2 * GROUPS] as those of its halves, [BLOCK_N, GROUPS, 1] each."""
    low, high = tl.split(tl.permute(tl.reshape(scales, (BLOCK_N, 2, GROUPS)), (0, 2, 1)))
    return low[:, :, None], high[:, :, None]


@triton.jit
def scaled(code, factor, zero, FORMAT: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_N: tl.constexpr,
           GROUPS: tl.constexpr):  # fmt: skip
    """Codes [BLOCK_N, 64] less ``zero`` times ``factor``, each for a group."""
    parts = tl.reshape(code, (BLOCK_N, GROUPS, 64 // GROUPS))
    if FORMAT == INT4:
        value = int4_of(parts, zero, COMPUTE)
    else:
        value = e2m1_of(parts, COMPUTE)
    return tl.reshape(value * factor, (BLOCK_N, 64))


@triton.jit
def load_rows(x, at, real, k, K, WIDTH: tl.constexpr, EVEN_K: tl.constexpr, COMPUTE: tl.constexpr):
    """x[at, k : k + WIDTH] transposed, [WIDTH, M]; zero where there is no pair."""
    column = k + tl.arange(0, WIDTH)
    mask = real[None, :]
    if not EVEN_K:
        mask = mask & (column < K)[:, None]
    return tl.load(x + at[None, :] + column[:, None], mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def product_4bit(acc, x, values, scale, zero, at, real, row, first, last, K, spans,
                 FORMAT: tl.constexpr, GROUP: tl.constexpr, ASYMMETRIC: tl.constexpr, COMPUTE: tl.constexpr,
                 EVEN_K: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """Spans [first, last) of 128 columns; each byte has two of them, 64 apart."""
    GROUPS: tl.constexpr = 64 // GROUP
    codes = values + (row * spans * 64)[:, None] + tl.arange(0, 64)[None, :]
    groups = (row * spans * (2 * GROUPS))[:, None] + tl.arange(0, 2 * GROUPS)[None, :]
    for span in range(first, last):
        byte = tl.load(codes + span * 64)
        factor = tl.load(scale + groups + span * (2 * GROUPS))  # a span's at once: 4 bytes or more can be prefetched
        if FORMAT == INT4:
            factor = factor.to(COMPUTE)
            if ASYMMETRIC:
                zeros = tl.load(zero + groups + span * (2 * GROUPS)).to(tl.float32)
                zero_low, zero_high = by_half(zeros, BLOCK_N, GROUPS)
            else:
                zero_low = tl.full((1, 1, 1), 8.0, tl.float32)
                zero_high = zero_low
        elif FORMAT == MXFP4:
            factor = e8m0_of(factor, COMPUTE)
            zero_low, zero_high = 0.0, 0.0
        else:
            factor = e4m3_of(factor, COMPUTE)
            zero_low, zero_high = 0.0, 0.0
        factor_low, factor_high = by_half(factor, BLOCK_N, GROUPS)
        low = scaled(byte & 15, factor_low, zero_low, FORMAT, COMPUTE, BLOCK_N, GROUPS)
        rows = load_rows(x, at, real, span * 128, K, 64, EVEN_K, COMPUTE)
        acc = tl.dot(low, rows, acc, input_precision="ieee")
        high = scaled(byte >> 4, factor_high, zero_high, FORMAT, COMPUTE, BLOCK_N, GROUPS)
        rows = load_rows(x, at, real, span * 128 + 64, K, 64, EVEN_K, COMPUTE)
        acc = tl.dot(high, rows, acc, input_precision="ieee")
    return acc


@triton.jit
def load_bytes(values, row, k, K, EVEN_K: tl.constexpr):
    """values[row, k : k + 64], zero beyond K."""
    column = k + tl.arange(0, 64)
    place = values + (row * K)[:, None] + column[None, :]
    if EVEN_K:
        byte = tl.load(place)
    else:
        byte = tl.load(place, mask=(column < K)[None, :], other=0)
    return byte


@triton.jit
def product_8bit(acc, x, values, scale, at, real, row, block_row, first, last, K,
                 FORMAT: tl.constexpr, COMPUTE: tl.constexpr, EVEN_K: tl.constexpr):  # fmt: skip
    """Spans of 128 columns of FP8, by halves, which fit the registers; a block's factor applies to the span's sum."""
    for span in range(first, last):
        low = e4m3_of(load_bytes(values, row, span * 128, K, EVEN_K), COMPUTE)
        high = e4m3_of(load_bytes(values, row, span * 128 + 64, K, EVEN_K), COMPUTE)
        rows_low = load_rows(x, at, real, span * 128, K, 64, EVEN_K, COMPUTE)
        rows_high = load_rows(x, at, real, span * 128 + 64, K, 64, EVEN_K, COMPUTE)
        if FORMAT == FP8_BLOCK:
            part = tl.dot(low, rows_low, input_precision="ieee")
            part = tl.dot(high, rows_high, part, input_precision="ieee")
            acc += part * tl.load(scale + block_row + span)[:, None]
        else:
            acc = tl.dot(low, rows_low, acc, input_precision="ieee")
            acc = tl.dot(high, rows_high, acc, input_precision="ieee")
    return acc


@triton.jit
def grouped_of(code, factor, COMPUTE: tl.constexpr, BLOCK_N: tl.constexpr, GROUPS: tl.constexpr):
    """INT8 codes [BLOCK_N, 64] times ``factor``, each for a group, in fp32 and rounded once."""
    parts = tl.reshape(int8_of(code), (BLOCK_N, GROUPS, 64 // GROUPS))
    return tl.reshape((parts * factor).to(COMPUTE), (BLOCK_N, 64))


@triton.jit
def product_int8(acc, x, values, scale, at, real, row, first, last, K, spans, FORMAT: tl.constexpr,
                 GROUP: tl.constexpr, COMPUTE: tl.constexpr, EVEN_K: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """Spans of 128 columns of INT8, by halves; a row's one factor is left to the end, every code being exact."""
    GROUPS: tl.constexpr = 64 // GROUP if FORMAT == INT8_GROUP else 1
    groups = (row * spans * (2 * GROUPS))[:, None] + tl.arange(0, 2 * GROUPS)[None, :]
    for span in range(first, last):
        low = load_bytes(values, row, span * 128, K, EVEN_K)
        high = load_bytes(values, row, span * 128 + 64, K, EVEN_K)
        if FORMAT == INT8_GROUP:
            factor = tl.load(scale + groups + span * (2 * GROUPS)).to(tl.float32)
            factor_low, factor_high = by_half(factor, BLOCK_N, GROUPS)
            low = grouped_of(low, factor_low, COMPUTE, BLOCK_N, GROUPS)
            high = grouped_of(high, factor_high, COMPUTE, BLOCK_N, GROUPS)
        else:
            low = int8_of(low).to(COMPUTE)
            high = int8_of(high).to(COMPUTE)
        rows = load_rows(x, at, real, span * 128, K, 64, EVEN_K, COMPUTE)
        acc = tl.dot(low, rows, acc, input_precision="ieee")
        rows = load_rows(x, at, real, span * 128 + 64, K, 64, EVEN_K, COMPUTE)
        acc = tl.dot(high, rows, acc, input_precision="ieee")
    return acc


@triton.jit
def product_dense(acc, x, values, at, real, row, first, last, K,
                  COMPUTE: tl.constexpr, EVEN_K: tl.constexpr):  # fmt: skip
    """Halves of spans, 64 columns at a time."""
    column = tl.arange(0, 64)
    for half in range(2 * first, 2 * last):
        place = values + (row * K)[:, None] + half * 64 + column[None, :]
        weight = tl.load(place) if EVEN_K else tl.load(place, mask=(half * 64 + column < K)[None, :], other=0.0)
        rows = load_rows(x, at, real, half * 64, K, 64, EVEN_K, COMPUTE)
        acc = tl.dot(weight.to(COMPUTE), rows, acc, input_precision="ieee")
    return acc


@triton.jit
def grouped_kernel(
    x, values, scale, zero, row_scale, bias, pairs, blocks, out, P, N, K, choices, x_stride, alpha, limit,
    FORMAT: tl.constexpr, GROUP: tl.constexpr, ASYMMETRIC: tl.constexpr, HAS_BIAS: tl.constexpr, GATE: tl.constexpr,
    INTERLEAVED: tl.constexpr, SPLIT: tl.constexpr, EVEN_K: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out[pair] = x[pair // choices] @ matrix of the block's expert; GATE -1: no activation.

    Program (i, s): block i // tiles, tile i % tiles of the rows, part s of SPLIT of the columns, which go to
    out[s * P + pair]. Programs of one block lie side by side, so its expert's weights stay in the cache for the next.
    """
    tiles = tl.cdiv(N, BLOCK_N)
    block, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    expert = tl.load(blocks + block).to(tl.int64)
    if expert < 0:
        return
    pair = tl.load(pairs + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    real = pair < P
    at = tl.where(real, pair // choices, 0) * x_stride

    place = tl.arange(0, BLOCK_N)
    if GATE >= 0:
        inter = N // 2
        second, column = place // (BLOCK_N // 2), tile * (BLOCK_N // 2) + place % (BLOCK_N // 2)
        inside = column < inter
        source = 2 * column + second if INTERLEAVED else second * inter + column
        order = second * inter + column
    else:
        source = tile * BLOCK_N + place
        inside = source < N
        order = source
    source = tl.where(inside, source, 0)
    row = expert * N + source

    spans = tl.cdiv(K, 128)
    share = tl.cdiv(spans, SPLIT)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, spans)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if FORMAT == DENSE:
        acc = product_dense(acc, x, values, at, real, row, first, last, K, COMPUTE, EVEN_K)
    elif FORMAT == FP8_BLOCK or FORMAT == FP8_CHANNEL:
        block_row = (expert * tl.cdiv(N, 128) + source // 128) * spans
        acc = product_8bit(acc, x, values, scale, at, real, row, block_row, first, last, K, FORMAT, COMPUTE, EVEN_K)
    elif FORMAT == INT8_ROW or FORMAT == INT8_GROUP:
        acc = product_int8(
            acc, x, values, scale, at, real, row, first, last, K, spans, FORMAT, GROUP, COMPUTE, EVEN_K, BLOCK_N
        )
    else:
        acc = product_4bit(
            acc, x, values, scale, zero, at, real, row, first, last, K, spans, FORMAT, GROUP, ASYMMETRIC, COMPUTE,
            EVEN_K, BLOCK_N,
        )  # fmt: skip
    if FORMAT == NVFP4 or FORMAT == FP8_CHANNEL or FORMAT == INT8_ROW:
        acc *= tl.load(row_scale + row)[:, None]
    if HAS_BIAS:
        acc += tl.load(bias + expert * N + order, mask=inside, other=0.0)[:, None]

    if GATE >= 0:
        gate, up = tl.split(tl.permute(tl.reshape(acc, (2, BLOCK_N // 2, BLOCK_M)), (1, 2, 0)))
        value = gated_of(gate, up, alpha, limit, GATE)
        column = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        to = out + pair[None, :] * inter + column[:, None]
        tl.store(to, value.to(out.dtype.element_ty), mask=real[None, :] & (column < inter)[:, None])
    else:
        to = out + (tl.program_id(1).to(tl.int64) * P + pair)[None, :] * N + source[:, None]
        tl.store(to, acc.to(out.dtype.element_ty), mask=real[None, :] & inside[:, None])


@triton.jit
def gate_kernel(
    parts, ids, bias, out, P, E, N, alpha, limit,
    SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr, GATE: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the parts of a split gate and up in their order, then bias and activation; parts fp32 [SPLIT, P, N]."""
    pair = tl.program_id(0).to(tl.int64)
    expert = tl.load(ids + pair).to(tl.int64)
    if (expert < 0) | (expert >= E):
        return
    inter = N // 2
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inter
    first = 2 * column if INTERLEAVED else column
    second = 2 * column + 1 if INTERLEAVED else inter + column
    gate = tl.zeros((BLOCK,), tl.float32)
    up = tl.zeros((BLOCK,), tl.float32)
    for part in range(SPLIT):
        from_ = parts + (part * P + pair) * N
        gate += tl.load(from_ + first, mask=inside, other=0.0)
        up += tl.load(from_ + second, mask=inside, other=0.0)
    if HAS_BIAS:
        gate += tl.load(bias + expert * N + column, mask=inside, other=0.0)
        up += tl.load(bias + expert * N + inter + column, mask=inside, other=0.0)
    value = gated_of(gate, up, alpha, limit, GATE)
    tl.store(out + pair * inter + column, value.to(out.dtype.element_ty), mask=inside)
