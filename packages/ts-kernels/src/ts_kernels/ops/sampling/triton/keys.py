"""What the kernels share: a logit's place in the order, its weight, random numbers. Legend: C chunk."""

import triton
import triton.language as tl

CHUNK = 4096


def chunks(vocab: int) -> int:
    """Programs of a row."""
    return int(triton.cdiv(vocab, CHUNK))


@triton.jit
def load_logits(row, index, inside):
    """fp32 logits; NaN and what is outside count as minus infinity, and there is one zero."""
    x = tl.load(row + index, mask=inside, other=float("-inf")).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))  # noqa: PLR0124
    return tl.where(x == 0.0, 0.0, x)


@triton.jit
def key_of(x):
    """An integer from 0 to 2^32 - 1, in int64, that orders as ``x`` does."""
    bits = x.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits < 0, -1 - bits - 2147483648, bits) + 2147483648


@triton.jit
def value_of(key):
    """The number that ``key_of`` took to ``key``."""
    bits = key - 2147483648
    return tl.where(bits < 0, -1 - (bits + 2147483648), bits).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def weight_of(x, peak, heat):
    """exp((x - peak) / heat); an infinite peak leaves its ties alone, at one."""
    return tl.where(x == peak, 1.0, tl.exp((x - peak) / heat))


@triton.jit
def mix(z):
    """splitmix64 in int64, whose products wrap; a shift of a negative number drags the sign along, which is masked."""
    z = z + -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit
def uniform(seed, position):
    """A number in [0, 1) with 53 bits, fp64."""
    bits = (mix(mix(seed) + position) >> 11) & 0x1FFFFFFFFFFFFF
    return bits.to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def stream(seed, NUMBER: tl.constexpr):
    """The seed of another sequence of numbers for the same request."""
    return mix(seed + NUMBER * -3335678366873096957)
