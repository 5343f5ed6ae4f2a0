"""Native permute, grouped product and combine (csrc/layout/permutation.cpp, ops/grouped.cpp, combine.cpp).

Arguments have passed the public functions' checks.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ... import _native, contract
from .._tensors import CODE, empty, rows
from ..gemm import packing
from ..quantize.base import finite_scales
from ..quantize.formats import Int4Weight, QuantizedWeight
from ..quantize.fp4 import e8m0
from .permutation import Permutation, capacity
from .weights import ExpertSource


def permute(ids: Tensor, experts: int, block: int) -> Permutation:
    """A counting sort, each expert's share padded to whole blocks."""
    ids = ids.contiguous()
    places = capacity(ids.numel(), experts, block)
    pairs = empty((places,), torch.int32)
    offsets = empty((experts + 1,), torch.int32)
    blocks = empty((places // block,), torch.int32)
    pointers = (pairs.data_ptr(), offsets.data_ptr(), blocks.data_ptr())
    _native.permute(ids.data_ptr(), ids.numel(), experts, block, places, *pointers)
    return Permutation(pairs, offsets, blocks, block)


def combine(values: Tensor, weights: Tensor, ids: Tensor, experts: int, base: Tensor | None) -> Tensor:
    """A sum in the order of the choices, in fp32, rounded once."""
    tokens, k, width = values.shape
    weights, ids, base = weights.contiguous(), ids.contiguous(), None if base is None else rows(base)
    out = empty((tokens, width), values.dtype)
    start = (0, 0) if base is None else (base.data_ptr(), base.stride(0))
    sizes = (tokens, k, width, experts)
    pointers = (weights.data_ptr(), ids.data_ptr(), *start, out.data_ptr())
    _native.combine(values.data_ptr(), CODE[values.dtype], *sizes, *pointers)
    return out


def grouped_linear(x: Tensor, ids: Tensor, weight: ExpertSource) -> Tensor:
    """Expert by expert, each strip of a weight packed on its way; sums are fp32, rounded once."""
    (tokens, width), (experts, n, _), top_k = x.shape, weight.shape, ids.shape[1]
    if 0 in (tokens, top_k, experts, n, width):
        return x.new_zeros((tokens, top_k, n))
    x, ids = rows(x), ids.contiguous()
    order = permute(ids, experts, 1)
    out = empty((tokens, top_k, n), x.dtype)
    forms = _forms(weight, order.offsets.diff().tolist())
    first = next((form for form in forms if form is not None), None)
    finite = first is None or _native.grouped_linear(
        x.data_ptr(),
        x.stride(0),
        tokens,
        CODE[x.dtype],
        ids.data_ptr(),
        top_k,
        order.pairs.data_ptr(),
        order.offsets.data_ptr(),
        [(0, 0, 0) if form is None else form.pointers for form in forms],
        first.format,
        n,
        width,
        first.group,
        CODE[first.scales.dtype],
        first.row_bytes,
        first.flip,
        out.data_ptr(),
    )
    if not finite:
        contract.fail("moe.grouped_linear", "weight", "finite", "FP8 codes of NaN")
    return out if first is not None else out.zero_()


class _Form:
    """One expert's matrix as the kernel reads it; holds what its pointers refer to."""

    def __init__(self, source: Tensor | QuantizedWeight) -> None:
        parts = _parts(source)
        self.format, self.flip = parts.format, parts.flip
        self.codes, self.scales = rows(parts.codes.flatten(1)), parts.scales.contiguous()
        self.zeros = None if parts.zeros is None else parts.zeros.float().contiguous()
        self.row_bytes = self.codes.stride(0) * self.codes.itemsize
        self.group = 0
        if isinstance(source, QuantizedWeight):
            self.group = source.group if self.scales.shape[-1] > 1 else -(-source.shape[-1] // 32) * 32

    @property
    def pointers(self) -> tuple[int, int, int]:
        return self.codes.data_ptr(), self.scales.data_ptr(), 0 if self.zeros is None else self.zeros.data_ptr()


def _forms(weight: ExpertSource, counts: list[int]) -> list[_Form | None]:
    return [_Form(weight[expert]) if count else None for expert, count in enumerate(counts)]


def _parts(source: Tensor | QuantizedWeight) -> packing.Parts:
    """Codes with scales of every row, bf16 where that holds them, else fp32; zero points of two's complement codes."""
    if isinstance(source, Tensor):
        return packing.Parts(CODE[source.dtype], source, source.new_empty(0))
    parts = packing.parts_of(source)  # the kernel looks for FP8 codes of NaN while it packs
    scales = parts.scales
    if scales.dtype != torch.bfloat16:
        scales = e8m0(scales).bfloat16() if scales.dtype == torch.uint8 else scales.float()
    if parts.scale_rows > 1:
        scales = scales.repeat_interleave(parts.scale_rows, 0)[: source.shape[0]]
    if parts.row_scales is not None:
        scales = scales * parts.row_scales[:, None]
    if not finite_scales(scales):
        contract.fail("moe.grouped_linear", "weight", "finite", "scales that are not")
    zeros = source.zeros() - 8 if isinstance(source, Int4Weight) and source.zero_point is not None else None
    return replace(parts, scales=scales, zeros=zeros)


# Shortcuts that take the public arguments; see Operation.direct.
direct_combine = _native.direct_combine


def direct_permute(ids: Tensor, experts: int, block: int) -> object:
    """``permute`` in one call; NotImplemented where ``ids`` is not as the kernel wants it."""
    done = _native.direct_permute(ids, experts, block)
    if done is NotImplemented:
        return done
    pairs, offsets, blocks = done
    return Permutation(pairs, offsets, blocks, block)
