"""Cache writes and copies in Triton. Arguments have passed the public functions' checks.

Legend: T tokens, L latent width, R rotary width.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._tensors import rows

E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def write_latent_kernel(
    kv_a, norm_weight, cos_sin, positions, slots, cache, cache_scale, kv_stride, eps,
    L: tl.constexpr, PAIRS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One token: its latent normed, its rotary key turned, both written to its slot."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    source, target = kv_a + token * kv_stride, cache + slot * (L + 2 * PAIRS)
    column, pair = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_P)
    inside, real = column < L, pair < PAIRS
    values = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 0) / L + eps) * gain
    angle = cos_sin + tl.load(positions + token) * (2 * PAIRS) + pair
    cos, sin = tl.load(angle, mask=real, other=0.0), tl.load(angle + PAIRS, mask=real, other=0.0)
    even = tl.load(source + L + 2 * pair, mask=real, other=0.0).to(tl.float32)
    odd = tl.load(source + L + 2 * pair + 1, mask=real, other=0.0).to(tl.float32)
    divisor = 1.0
    if cache_scale is not None:
        divisor = tl.load(cache_scale)
    tl.store(target + column, stored(values, divisor, cache.dtype.element_ty, FP8), mask=inside)
    turned = target + L + 2 * pair
    tl.store(turned, stored(even * cos - odd * sin, divisor, cache.dtype.element_ty, FP8), mask=real)
    tl.store(turned + 1, stored(odd * cos + even * sin, divisor, cache.dtype.element_ty, FP8), mask=real)


@triton.jit
def stored(values, divisor, dtype: tl.constexpr, FP8: tl.constexpr):
    """``values`` as the cache holds them: FP8 as bytes, divided by its scale and cut off at its largest number."""
    if FP8:
        scaled = values / divisor
        result = e4m3_of(tl.where(scaled > E4M3_MAX, E4M3_MAX, tl.where(scaled < -E4M3_MAX, -E4M3_MAX, scaled)))
    else:
        result = values.to(dtype)
    return result


@triton.jit
def e4m3_of(x):
    """The byte of the nearest e4m3 number, ties to even, for x from -448 to 448 or NaN.

    Written out, so that every target rounds alike (the interpreter's own conversion loses the carry into the exponent,
    31.5 becomes 16, and NaN).
    """
    word = x.to(tl.int32, bitcast=True)
    magnitude = word & 0x7FFFFFFF
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Floats from 2^14 on are 2^-9 apart, as e4m3's below 2^-6 are: the sum's last bits count them.
    small = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) & 0xF
    byte = tl.where(magnitude < 0x3C800000, small, normal)
    byte = tl.where(magnitude > 0x7F800000, 0x7F, byte) | ((word >> 24) & 0x80)
    return byte.to(tl.uint8)


def write_latent(
    kv_a: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos_sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    cache: Tensor,
    *,
    cache_scale: Tensor | None = None,
) -> None:
    """Norm, rotate and store each token's entry."""
    kv_a, norm_weight, cos_sin = rows(kv_a), rows(norm_weight), cos_sin.contiguous()
    tokens, latent, pairs = kv_a.shape[0], norm_weight.shape[0], cos_sin.shape[1] // 2
    if tokens == 0:
        return
    block, fp8 = triton.next_power_of_2(latent), cache.dtype == torch.float8_e4m3fn
    write_latent_kernel[(tokens,)](
        kv_a, norm_weight, cos_sin, positions.contiguous(), slot_mapping.contiguous(),
        cache.view(torch.uint8) if fp8 else cache, cache_scale,
        kv_a.stride(0), eps, L=latent, PAIRS=pairs, BLOCK_L=block, BLOCK_P=triton.next_power_of_2(pairs),
        FP8=fp8, num_warps=min(max(block // 256, 1), 8),
    )  # fmt: skip


@triton.jit
def copy_pages_kernel(source, target, source_pages, target_pages, words, BLOCK: tl.constexpr):
    """A part of one page, as words of whatever width divides it."""
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < words
    taken = tl.load(source_pages + tl.program_id(0)) * words
    given = tl.load(target_pages + tl.program_id(0)) * words
    tl.store(target + given + index, tl.load(source + taken + index, mask=inside), mask=inside)


def copy_pages(source: Tensor, target: Tensor, source_pages: Tensor, target_pages: Tensor) -> None:
    """Copy whole pages, each by several programs."""
    count, size = source_pages.shape[0], source[0].nbytes if source.shape[0] else 0
    if count == 0 or size == 0:
        return
    starts = (cache.storage_offset() * cache.element_size() for cache in (source, target))
    unit = math.gcd(size, *starts)
    word = next(kind for kind in (torch.int64, torch.int32, torch.int16, torch.int8) if unit % kind.itemsize == 0)
    words, block = size // word.itemsize, 2048
    copy_pages_kernel[(count, triton.cdiv(words, block))](
        source.flatten().view(word), target.flatten().view(word), source_pages.contiguous(), target_pages.contiguous(),
        words, BLOCK=block, num_warps=4,
    )  # fmt: skip
