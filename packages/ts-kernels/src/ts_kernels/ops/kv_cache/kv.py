"""Writes of keys and values to a paged cache, head by head as ``attention`` reads them.

Legend: T tokens, H_kv heads of the cache, D key width, V value width.
"""

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._public import public
from ..attention._checks import CACHES, QUERIES, dense_pages, reject_caches
from . import reference

_WRITE_KV = Operation(
    "kv_cache.write_kv",
    dtypes=("k", "cache"),
    dims=("H_kv", "D", "V"),
    summary="keys and values to the tokens' slots of two paged caches",
)


@public
def write_kv(
    k: Tensor,
    v: Tensor,
    slot_mapping: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    impl: str | None = None,
) -> None:
    """Put each token's keys (rotated, normed where the model does so) and values into its slot of the paged caches.

    k [T, H_kv, D] and v [T, H_kv, V] fp32, bf16 or fp16 of one dtype (tokens may be spaced, as in a slice of a joint
    projection), slot_mapping int64 [T] (page * page_size + offset; a negative slot is padding and is skipped), k_cache
    [pages, page_size, H_kv, D] and v_cache [pages, page_size, H_kv, V] fp32, bf16, fp16 or float8_e4m3fn, written in
    place. What is written is k / k_scale and v / v_scale, in FP8 clamped to its largest number (448). Two tokens of one
    call must not share a slot. Raises ``ContractError``.
    """
    if impl is None and _WRITE_KV.direct(k, v, slot_mapping, k_cache, v_cache, k_scale, v_scale) is None:
        return
    if not (0.0 < k_scale <= contract.MOST_FLOAT and 0.0 < v_scale <= contract.MOST_FLOAT):
        name, given = ("v_scale", v_scale) if 0.0 < k_scale <= contract.MOST_FLOAT else ("k_scale", k_scale)
        contract.fail("kv_cache.write_kv", name, "positive and finite", given)
    if not (
        k.dim() == v.dim() == 3
        and k_cache.dim() == v_cache.dim() == 4
        and k.shape[1:] == k_cache.shape[2:]
        and v.shape[1:] == v_cache.shape[2:]
        and k_cache.shape[:3] == v_cache.shape[:3]
        and 0 not in k_cache.shape[1:]
        and v_cache.shape[3] > 0
        and slot_mapping.shape == k.shape[:1] == v.shape[:1]
        and slot_mapping.dtype == torch.int64
        and k.dtype == v.dtype
        and k.dtype in QUERIES
        and k_cache.dtype == v_cache.dtype
        and k_cache.dtype in CACHES
        and dense_pages(k_cache)
        and dense_pages(v_cache)
        and k.device == v.device == slot_mapping.device == k_cache.device == v_cache.device
    ):
        _reject(k, v, slot_mapping, k_cache, v_cache)
    contract.apart("kv_cache.write_kv", "k_cache", k_cache)
    contract.apart("kv_cache.write_kv", "v_cache", v_cache)
    contract.disjoint("kv_cache.write_kv", "v_cache", v_cache, "k_cache", k_cache)
    if contract.debug():
        room = k_cache.shape[0] * k_cache.shape[1]
        contract.below("kv_cache.write_kv", "slot_mapping", slot_mapping, room)
        contract.distinct("kv_cache.write_kv", "slot_mapping", slot_mapping)
    sizes = (*k.shape[1:], v.shape[2])
    kernel = _WRITE_KV.kernel(k.device, (k.dtype, k_cache.dtype), sizes, "dense", impl)
    kernel(k, v, slot_mapping, k_cache, v_cache, k_scale, v_scale)


def _reject(k: Tensor, v: Tensor, slot_mapping: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    operation = "kv_cache.write_kv"
    reject_caches(operation, k_cache, v_cache)
    contract.shape(operation, "k", k, "T", *k_cache.shape[2:])
    contract.shape(operation, "v", v, k.shape[0], *v_cache.shape[2:])
    contract.dtype(operation, "k", k, *sorted(QUERIES, key=str))
    contract.dtype(operation, "v", v, k.dtype)
    contract.shape(operation, "slot_mapping", slot_mapping, k.shape[0])
    contract.dtype(operation, "slot_mapping", slot_mapping, torch.int64)
    contract.device(operation, k, v=v, slot_mapping=slot_mapping, k_cache=k_cache, v_cache=v_cache)


_register.reference(_WRITE_KV, reference.write_kv, {"k": QUERIES, "cache": CACHES})
_register.native(
    _WRITE_KV,
    "kv_cache.cpu:write_kv",
    {"k": contract.FLOATS, "cache": contract.CACHES},
    direct="kv_cache.cpu:direct_write_kv",
)
_register.triton(_WRITE_KV, "attention.triton.write:write_kv", {"k": QUERIES, "cache": CACHES})
