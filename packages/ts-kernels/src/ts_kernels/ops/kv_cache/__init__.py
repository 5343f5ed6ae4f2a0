"""Writes to the paged cache, copies of its pages. Legend: T tokens, L latent width, R rotary width, P positions."""

import torch
from torch import Tensor

from ... import contract
from ...registry import even
from ...selection import Operation
from .. import _register
from .._public import public
from .._scales import check_scale
from . import reference
from .kv import write_kv
from .pages import copy_pages

__all__ = ["copy_pages", "write_kv", "write_latent"]

_WRITE_LATENT = Operation(
    "kv_cache.write_latent",
    dtypes=("kv_a", "norm_weight", "cache"),
    dims=("L", "R"),
    limits=(even("R"),),
    summary="norm the latent, rotate the rope part, write both to the tokens' slots",
)


@public
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
    impl: str | None = None,
) -> None:
    """Put each token's latent (RMS-normed) and rotary key (rotated) into its slot of the paged cache.

    kv_a [T, L+R] (may be a column slice), norm_weight [L], cos_sin fp32 [P, R], positions int64 [T], slot_mapping int64
    [T] (page * page_size + offset; a negative slot is padding and is skipped), cache [pages, page_size, L+R] fp32,
    bf16 or float8_e4m3fn, written in place. FP8 holds numbers divided by ``cache_scale`` (fp32 [1]; 1 where left out),
    one factor for the whole cache, rounded to nearest even and cut off at 448. Two tokens of one call must not share a
    slot. Raises ``ContractError`` (DeepSeek-V2's latent cache, arXiv 2405.04434).
    """
    if not 0.0 <= eps <= contract.MOST_FLOAT:
        contract.finite("kv_cache.write_latent", "eps", eps, least=0.0)
    if impl is None and cache_scale is None:
        done = _WRITE_LATENT.direct(kv_a, norm_weight, eps, cos_sin, positions, slot_mapping, cache)
        if done is not NotImplemented:
            return
    if not (
        kv_a.dim() == 2
        and cache.dim() == 3
        and norm_weight.dim() == 1
        and cos_sin.dim() == 2
        and kv_a.shape[1] == cache.shape[2] == norm_weight.shape[0] + cos_sin.shape[1]
        and norm_weight.shape[0] > 0
        and cos_sin.shape[1] % 2 == 0 < cos_sin.shape[1]
        and positions.shape == slot_mapping.shape == kv_a.shape[:1]
        and positions.dtype == slot_mapping.dtype == torch.int64
        and cos_sin.dtype == torch.float32
        and cache.is_contiguous()
        and kv_a.device
        == norm_weight.device
        == cos_sin.device
        == positions.device
        == slot_mapping.device
        == cache.device
    ):
        _reject(kv_a, norm_weight, cos_sin, positions, slot_mapping, cache)
    check_scale("kv_cache.write_latent", cache, cache_scale)
    if contract.debug():
        contract.in_range("kv_cache.write_latent", "positions", positions, 0, cos_sin.shape[0])
        contract.below("kv_cache.write_latent", "slot_mapping", slot_mapping, cache.shape[0] * cache.shape[1])
        contract.distinct("kv_cache.write_latent", "slot_mapping", slot_mapping)
    dtypes = (kv_a.dtype, norm_weight.dtype, cache.dtype)
    kernel = _WRITE_LATENT.kernel(kv_a.device, dtypes, (norm_weight.shape[0], cos_sin.shape[1]), "dense", impl)
    kernel(kv_a, norm_weight, eps, cos_sin, positions, slot_mapping, cache, cache_scale=cache_scale)


def _reject(
    kv_a: Tensor, norm_weight: Tensor, cos_sin: Tensor, positions: Tensor, slot_mapping: Tensor, cache: Tensor
) -> None:
    operation = "kv_cache.write_latent"
    contract.shape(operation, "kv_a", kv_a, "T", "L+R")
    contract.shape(operation, "norm_weight", norm_weight, "L")
    contract.shape(operation, "cos_sin", cos_sin, "P", "R")
    if norm_weight.shape[0] == 0:
        contract.fail(operation, "norm_weight", "[L] with L at least 1", norm_weight)
    if cos_sin.shape[1] % 2 or cos_sin.shape[1] == 0:
        contract.fail(operation, "cos_sin", "of an even number of columns, at least 2", cos_sin)
    width = norm_weight.shape[0] + cos_sin.shape[1]
    contract.shape(operation, "kv_a", kv_a, "T", width)
    contract.shape(operation, "cache", cache, "pages", "page_size", width)
    contract.shape(operation, "positions", positions, kv_a.shape[0])
    contract.shape(operation, "slot_mapping", slot_mapping, kv_a.shape[0])
    contract.dtype(operation, "positions", positions, torch.int64)
    contract.dtype(operation, "slot_mapping", slot_mapping, torch.int64)
    contract.dtype(operation, "cos_sin", cos_sin, torch.float32)
    contract.contiguous(operation, "cache", cache)
    others = {"cos_sin": cos_sin, "positions": positions, "slot_mapping": slot_mapping, "cache": cache}
    contract.device(operation, kv_a, norm_weight=norm_weight, **others)


_register.reference(
    _WRITE_LATENT,
    reference.write_latent,
    {"kv_a": contract.REALS, "norm_weight": contract.REALS, "cache": contract.REALS | contract.CACHES},
)
_register.native(
    _WRITE_LATENT,
    "kv_cache.cpu:write_latent",
    {"kv_a": contract.FLOATS, "norm_weight": contract.FLOATS, "cache": contract.CACHES},
    direct="kv_cache.cpu:direct_write_latent",
)
_register.triton(
    _WRITE_LATENT,
    "kv_cache.triton:write_latent",
    {"kv_a": contract.FLOATS, "norm_weight": contract.FLOATS, "cache": contract.CACHES},
    e4m3_as_bytes=True,
)
