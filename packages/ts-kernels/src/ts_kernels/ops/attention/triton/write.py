"""Writes of keys and values to paged caches in Triton. Arguments have passed the public function's checks."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import dense_heads


@triton.jit
def write_part(x, x_stride, cache, page_stride, token, slot, scale, WIDTH: tl.constexpr, PAGE: tl.constexpr,
               BLOCK: tl.constexpr, CLAMPED: tl.constexpr):  # fmt: skip
    """One token's heads of keys, or of values."""
    to = cache + slot // PAGE * page_stride + slot % PAGE * WIDTH
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        new = tl.load(x + token * x_stride + column, mask=column < WIDTH, other=0.0).to(tl.float32) / scale
        if CLAMPED:  # FP8 has no infinity to round to
            new = tl.clamp(new, -448.0, 448.0)
        tl.store(to + column, new.to(cache.dtype.element_ty), mask=column < WIDTH)


@triton.jit
def write_kernel(
    k,
    v,
    slots,
    k_cache,
    v_cache,
    k_stride,
    v_stride,
    k_page,
    v_page,
    k_scale,
    v_scale,
    K_WIDTH: tl.constexpr,
    V_WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    CLAMPED: tl.constexpr,
):
    """One program a token."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        write_part(k, k_stride, k_cache, k_page, token, slot, k_scale, K_WIDTH, PAGE, BLOCK, CLAMPED)
        write_part(v, v_stride, v_cache, v_page, token, slot, v_scale, V_WIDTH, PAGE, BLOCK, CLAMPED)


def write_kv(
    k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> None:
    """Store each token's keys and values."""
    k, v, (tokens, shared, width) = dense_heads(k), dense_heads(v), k.shape
    if tokens:
        block = min(triton.next_power_of_2(shared * max(width, v.shape[2])), 2048)
        write_kernel[(tokens,)](
            k,
            v,
            slot_mapping.contiguous(),
            k_cache,
            v_cache,
            k.stride(0),
            v.stride(0),
            k_cache.stride(0),
            v_cache.stride(0),
            k_scale,
            v_scale,
            K_WIDTH=shared * width,
            V_WIDTH=shared * v.shape[2],
            PAGE=k_cache.shape[1],
            BLOCK=block,
            CLAMPED=k_cache.dtype == torch.float8_e4m3fn,
            num_warps=4,
        )
