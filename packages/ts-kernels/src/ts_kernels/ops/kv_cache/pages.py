"""Copies of pages between caches: prefixes, forks of a request, offload to the host."""

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference

_COPY_PAGES = Operation(
    "kv_cache.copy_pages",
    dtypes=("source",),
    dims=("bytes",),
    empty=("bytes",),
    summary="copy pages of one cache into another",
)


@public
def copy_pages(
    source: Tensor, target: Tensor, source_pages: Tensor, target_pages: Tensor, *, impl: str | None = None
) -> None:
    """``target[target_pages[i]] = source[source_pages[i]]`` for every i, in place.

    source and target [pages, ...] of any one dtype, contiguous, pages of one shape; both may be one cache if no page is
    read and written in the same call. source_pages and target_pages int64 [n], no target twice. The caches are on one
    device, or one of them on the CPU (offload and its way back; page numbers then on either). Raises ``ContractError``.
    """
    operation = _COPY_PAGES.name
    apart = source.device != target.device
    if not (
        source.dim() == target.dim() >= 2
        and source.shape[1:] == target.shape[1:]
        and source.dtype == target.dtype
        and source.is_contiguous()
        and target.is_contiguous()
        and source_pages.dim() == 1
        and source_pages.shape == target_pages.shape
        and source_pages.dtype == target_pages.dtype == torch.int64
        and (not apart or ("cpu" in (source.device.type, target.device.type) and not source.is_meta))
        and (apart or source.device == source_pages.device == target_pages.device)
    ):
        _reject(source, target, source_pages, target_pages)
    if contract.debug():
        contract.in_range(operation, "source_pages", source_pages, 0, source.shape[0])
        contract.in_range(operation, "target_pages", target_pages, 0, target.shape[0])
        contract.distinct(operation, "target_pages", target_pages)
        if source.data_ptr() == target.data_ptr():
            contract.distinct(
                operation, "source_pages and target_pages", torch.cat((torch.unique(source_pages), target_pages))
            )
    if apart:
        reference.copy_pages(source, target, source_pages, target_pages)
        return
    kernel = _COPY_PAGES.kernel(source.device, (source.dtype,), (page_bytes(source),), "dense", impl)
    kernel(source, target, source_pages, target_pages)


def page_bytes(cache: Tensor) -> int:
    """Bytes of one page."""
    return int(cache.stride(0)) * cache.element_size()


def _reject(source: Tensor, target: Tensor, source_pages: Tensor, target_pages: Tensor) -> None:
    operation = _COPY_PAGES.name
    if source.dim() < 2:
        contract.fail(operation, "source", "[pages, ...]", source)
    contract.shape(operation, "target", target, "pages", *source.shape[1:])
    contract.dtype(operation, "target", target, source.dtype)
    contract.contiguous(operation, "source", source)
    contract.contiguous(operation, "target", target)
    contract.shape(operation, "source_pages", source_pages, "n")
    contract.shape(operation, "target_pages", target_pages, source_pages.shape[0])
    contract.dtype(operation, "source_pages", source_pages, torch.int64)
    contract.dtype(operation, "target_pages", target_pages, torch.int64)
    if source.device != target.device:
        name, tensor = ("source", source) if source.is_meta else ("target", target)
        contract.fail(operation, name, "on the other's device, or one of both on the CPU", tensor)
    contract.device(operation, source, source_pages=source_pages, target_pages=target_pages)


_register.reference(_COPY_PAGES, reference.copy_pages, {})
_register.native(_COPY_PAGES, "kv_cache.cpu:copy_pages", {})
_register.triton(_COPY_PAGES, "kv_cache.triton:copy_pages", {})
