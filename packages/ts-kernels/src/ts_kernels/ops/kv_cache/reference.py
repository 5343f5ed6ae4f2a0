"""Writes to the paged caches in plain torch."""

import torch
from torch import Tensor

from ...contract import E4M3_MAX
from ..norm.reference import rms_norm
from ..rope.reference import rotate


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
    """``cache[slot] = rms_norm(latent) | rotate(rope)`` of each token, rounded to the cache's dtype."""
    latent, rope = torch.split(kv_a.float(), [norm_weight.shape[0], cos_sin.shape[1]], dim=-1)
    entry = torch.cat((rms_norm(latent, norm_weight, eps), rotate(rope, cos_sin, positions)), dim=-1)
    kept = slot_mapping >= 0
    bits(cache).view(-1, cache.shape[-1])[slot_mapping[kept]] = bits(rounded(entry[kept], cache.dtype, cache_scale))


def rounded(values: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """``values`` as the cache stores them: FP8 holds them divided by ``scale``, cut off at its largest number."""
    if dtype != torch.float8_e4m3fn:
        return values.to(dtype)
    return (values if scale is None else values / scale).clamp(-E4M3_MAX, E4M3_MAX).to(dtype)


def bits(x: Tensor) -> Tensor:
    """FP8 as bytes: not every device can index FP8."""
    return x.view(torch.uint8) if x.dtype.itemsize == 1 else x


def copy_pages(source: Tensor, target: Tensor, source_pages: Tensor, target_pages: Tensor) -> None:
    """``target[target_pages] = source[source_pages]``, across devices too."""
    taken = bits(source)[source_pages.to(source.device)]
    bits(target)[target_pages.to(target.device)] = taken.to(target.device)


def write_kv(
    k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> None:
    """``cache[slot] = new / scale`` of each token, rounded to the cache's dtype."""
    kept = slot_mapping >= 0
    pages, offsets = slot_mapping[kept] // k_cache.shape[1], slot_mapping[kept] % k_cache.shape[1]
    for new, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        scaled = new[kept].float() / scale
        if cache.dtype == torch.float8_e4m3fn:
            scaled = scaled.clamp(-E4M3_MAX, E4M3_MAX)
        # FP8 tensors take no indexed writes; their bytes do.
        stored = cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache
        stored[pages, offsets] = scaled.to(cache.dtype).view(stored.dtype)
