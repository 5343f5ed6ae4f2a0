"""The product. Legend: M rows of x, N outputs, K inputs, G groups of K.

A program makes one [BLOCK_M, BLOCK_N] block of the result, or, where few rows leave the device idle, the part of it
that one of SPLIT ranges of K gives. Weights are read as they are stored, [N, K], and widened in registers.
"""

import triton
import triton.language as tl

from .codes import e2m1, e4m3, e8m0, nibbles


@triton.jit
def load_scale(
    scale, zero, n, k0, N, K,
    KIND: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Factors (and zero points) of [ROWS, WIDE] weights from column k0, each repeated over its group."""
    GROUPS: tl.constexpr = WIDE // GROUP if WIDE > GROUP else 1
    SPAN: tl.constexpr = WIDE // GROUPS
    count = K // GROUP
    g = k0 // GROUP + tl.arange(0, GROUPS)
    inside = (n[:, None] < N) & (g[None, :] < count)
    raw = tl.load(scale + n[:, None].to(tl.int64) * count + g[None, :], mask=inside, other=0)
    if KIND == "mxfp4":
        factor = e8m0(raw)
    elif KIND == "nvfp4":
        factor = e4m3(raw)
    else:
        factor = raw.to(tl.float32)
    factor = tl.reshape(tl.broadcast_to(factor[:, :, None], (ROWS, GROUPS, SPAN)), (ROWS, WIDE))
    offset = tl.full((ROWS, WIDE), 8, tl.int32)
    if ZERO:
        words = tl.load(zero + (n[:, None] // 8).to(tl.int64) * count + g[None, :], mask=inside, other=0)
        points = (words >> (4 * (n[:, None] % 8))) & 15
        offset = tl.reshape(tl.broadcast_to(points[:, :, None], (ROWS, GROUPS, SPAN)), (ROWS, WIDE))
    return factor, offset


@triton.jit
def load_codes(w, n, k0, N, K, WORDS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """[ROWS, WIDE] codes from column k0, as they are or (WORDS) out of words of 8."""
    rows = n[:, None].to(tl.int64)
    if WORDS:
        word = k0 // 8 + tl.arange(0, WIDE // 8)
        inside = (n[:, None] < N) & (word[None, :] < K // 8)
        code = nibbles(tl.load(w + rows * (K // 8) + word[None, :], mask=inside, other=0), ROWS, WIDE)
    else:
        k = k0 + tl.arange(0, WIDE)
        code = tl.load(w + rows * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0)
    return code


@triton.jit
def weights_of(
    code, scale, zero, n, k0, N, K,
    KIND: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Numbers of [ROWS, WIDE] codes as fp32. GROUP 0: without their scale, which a whole row or block shares."""
    if GROUP == 0:
        factor, offset = 1.0, 8
        if ZERO:
            point = tl.load(zero + n // 8, mask=n < N, other=0)
            offset = ((point >> (4 * (n % 8))) & 15)[:, None]
    else:
        factor, offset = load_scale(scale, zero, n, k0, N, K, KIND, ZERO, GROUP, ROWS, WIDE)
    if KIND == "int4":
        value = (code - offset).to(tl.float32)
    elif KIND == "int8":
        value = code.to(tl.float32)
    elif KIND == "fp8":
        value = e4m3(code)
    else:
        value = e2m1(code)
    return value * factor


@triton.jit
def linear_kernel(
    x, w, scale, zero, column, bias, out, M, N, K, x_stride,
    KIND: tl.constexpr, ZERO: tl.constexpr, WORDS: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_SCALE: tl.constexpr, COLUMN: tl.constexpr, BIAS: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """``out[part, m, n]`` of x [M, K] (rows spaced by x_stride) and w [N, K]; BLOCK_SCALE: a scale for 128x128."""
    block, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
    m_blocks = tl.cdiv(M, BLOCK_M)  # neighbours share weights
    m = (block % m_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (block // m_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    per_part = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT) * BLOCK_K
    begin = tl.program_id(1) * per_part
    end = tl.minimum(begin + per_part, K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(begin, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        a = tl.load(
            x + m[:, None].to(tl.int64) * x_stride + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0
        )
        b = load_codes(w, n, k0, N, K, WORDS, BLOCK_N, BLOCK_K)
        if KIND != "dense":
            b = weights_of(b, scale, zero, n, k0, N, K, KIND, ZERO, GROUP, BLOCK_N, BLOCK_K)
        b = tl.trans(b.to(tl.float32 if UPCAST else x.dtype.element_ty))
        a = a.to(tl.float32) if UPCAST else a
        if BLOCK_SCALE:
            factor = tl.load(scale + (n // 128).to(tl.int64) * tl.cdiv(K, 128) + k0 // 128, mask=n < N, other=0.0)
            acc += tl.dot(a, b, input_precision="ieee") * factor[None, :]
        else:
            acc = tl.dot(a, b, acc, input_precision="ieee")
    if COLUMN:
        acc *= tl.load(column + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    to = out + (part * M + m[:, None].to(tl.int64)) * N + n[None, :]
    tl.store(to, acc.to(out.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def add_parts_kernel(parts, bias, out, size, N, BIAS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """``out[i] = sum_p parts[p, i]`` (+ bias), the parts in their order, so that the result is the same every time."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(SPLIT):
        total += tl.load(parts + part * size + i, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + i % N, mask=inside, other=0.0)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=inside)
