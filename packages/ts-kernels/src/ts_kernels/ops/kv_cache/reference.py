"""Writes to the paged caches in plain torch."""

import torch
from torch import Tensor

from ..norm.reference import rms_norm
from ..rope.reference import rotate

E4M3_LARGEST = 448.0


def write_latent(
    kv_a: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos_sin: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    cache: Tensor,
) -> None:
    """``cache[slot] = rms_norm(latent) | rotate(rope)`` of each token, rounded to the cache's dtype."""
    latent, rope = torch.split(kv_a.float(), [norm_weight.shape[0], cos_sin.shape[1]], dim=-1)
    entry = torch.cat((rms_norm(latent, norm_weight, eps), rotate(rope, cos_sin, positions)), dim=-1)
    kept = slot_mapping >= 0
    cache.view(-1, cache.shape[-1])[slot_mapping[kept]] = entry[kept].to(cache.dtype)


def write_kv(
    k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> None:
    """``cache[slot] = new / scale`` of each token, rounded to the cache's dtype."""
    kept = slot_mapping >= 0
    pages, offsets = slot_mapping[kept] // k_cache.shape[1], slot_mapping[kept] % k_cache.shape[1]
    for new, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        scaled = new[kept].float() / scale
        if cache.dtype == torch.float8_e4m3fn:
            scaled = scaled.clamp(-E4M3_LARGEST, E4M3_LARGEST)
        # FP8 tensors take no indexed writes; their bytes do.
        stored = cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache
        stored[pages, offsets] = scaled.to(cache.dtype).view(stored.dtype)
