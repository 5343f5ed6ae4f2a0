"""Scales beside caches and of scores, checked alike by every operation that takes one."""

from typing import NoReturn

import torch
from torch import Tensor

from .. import contract

MOST_SCALE = 1e20
"""The largest scale of scores: beyond it fp32 does not hold those of ordinary queries and keys."""


def check_scale(operation: str, cache: Tensor, cache_scale: Tensor | None) -> None:
    """A scale is one positive fp32 number on the cache's device, and given for FP8 alone."""
    if cache_scale is None:
        return
    if cache.dtype != torch.float8_e4m3fn:
        contract.fail(operation, "cache_scale", "None unless the cache is float8_e4m3fn", cache_scale)
    contract.shape(operation, "cache_scale", cache_scale, 1)
    contract.dtype(operation, "cache_scale", cache_scale, torch.float32)
    contract.device(operation, cache, cache_scale=cache_scale)
    if contract.debug() and not 0 < float(cache_scale) < float("inf"):
        contract.fail(operation, "cache_scale", "positive and finite", float(cache_scale))


def reject_scale(operation: str, scale: float) -> NoReturn:
    """Say what the scale of scores may be."""
    contract.fail(operation, "scale", f"finite, of magnitude at most {MOST_SCALE:g}", scale)
