"""Native cache writes (csrc/ops/latent_cache.cpp, kv_write.cpp). Arguments have passed the public function's checks."""

from torch import Tensor

from ... import _native
from .._tensors import CACHE_CODE, CODE, dense_heads, rows, scale_of


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
    kv_a, norm_weight = rows(kv_a), rows(norm_weight)
    cos_sin, positions, slot_mapping = cos_sin.contiguous(), positions.contiguous(), slot_mapping.contiguous()
    limit, rotary = cos_sin.shape
    pages, page_size, _ = cache.shape
    _native.write_latent(
        kv_a.data_ptr(),
        kv_a.stride(0),
        kv_a.shape[0],
        norm_weight.shape[0],
        rotary,
        norm_weight.data_ptr(),
        CODE[norm_weight.dtype],
        eps,
        cos_sin.data_ptr(),
        limit,
        positions.data_ptr(),
        slot_mapping.data_ptr(),
        cache.data_ptr(),
        CACHE_CODE[cache.dtype],
        pages * page_size,
        CODE[kv_a.dtype],
        scale_of(cache_scale),
    )


def copy_pages(source: Tensor, target: Tensor, source_pages: Tensor, target_pages: Tensor) -> None:
    """Copy whole pages, one after another."""
    source_pages, target_pages = source_pages.contiguous(), target_pages.contiguous()
    _native.copy_pages(
        source.data_ptr(),
        source.shape[0],
        target.data_ptr(),
        target.shape[0],
        source_pages.data_ptr(),
        target_pages.data_ptr(),
        source_pages.shape[0],
        source[0].nbytes if source.shape[0] else 0,
    )


def write_kv(
    k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> None:
    """Store each token's keys and values."""
    k, v, slot_mapping = dense_heads(k), dense_heads(v), slot_mapping.contiguous()
    pages, page_size, shared, width = k_cache.shape
    _native.write_kv(
        k.data_ptr(),
        k.stride(0),
        shared * width,
        v.data_ptr(),
        v.stride(0),
        shared * v.shape[2],
        k.shape[0],
        CODE[k.dtype],
        slot_mapping.data_ptr(),
        k_cache.data_ptr(),
        k_cache.stride(0),
        k_scale,
        v_cache.data_ptr(),
        v_cache.stride(0),
        v_scale,
        pages,
        page_size,
        CACHE_CODE[k_cache.dtype],
    )


# Shortcuts that take the public arguments; see Operation.direct.
direct_write_kv = _native.direct_write_kv
direct_write_latent = _native.direct_write_latent
