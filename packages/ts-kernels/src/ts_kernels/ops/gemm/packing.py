"""Quantized weights as the native kernels take them: codes and scales as they came (csrc/layout/packed.h)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._tensors import rows
from ..quantize.formats import (
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
    QuantizedWeight,
)
from ..quantize.fp8 import BLOCK

INT4, INT4_ZERO, INT8, FP8, FP4 = 2, 3, 4, 5, 6
OFFSET_8 = 0x88888888
SCALES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float8_e4m3fn: 3, torch.uint8: 4}
"""Codes of the types of scales; uint8 ones are exponents plus 127."""


@dataclass(frozen=True)
class Parts:
    """Format code, codes [N, ...], scales [M, G] each row of which is ``scale_rows`` rows' own, and beside them: what
    makes codes two's complement, a further factor of each row fp32 [N], packed zero points int32 [ceil(N / 8), G].
    """

    format: int
    codes: Tensor
    scales: Tensor
    scale_rows: int = 1
    flip: int = 0
    row_scales: Tensor | None = None
    zeros: Tensor | None = None


def native_source(weight: QuantizedWeight, *, in_turn: bool = False) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """What ``PackedLinear.from_quantized`` and ``Run.of_quantized`` are told of one matrix, and the tensors that it
    lies in, which must last as long; ``in_turn``: its rows are those of two matrices in turn, which become one after
    the other.
    """
    n, k = weight.shape
    parts = parts_of(weight)
    codes, scales, by_row = rows(parts.codes.flatten(1)), rows(parts.scales), parts.row_scales
    zeros = None if parts.zeros is None else rows(parts.zeros)
    told = {
        "format": parts.format,
        "n": n,
        "k": k,
        "in_turn": in_turn,
        "codes": codes.data_ptr(),
        "code_stride": codes.stride(0) * codes.itemsize,
        "flip": parts.flip,
        "scales": scales.data_ptr(),
        "scale_type": SCALES[scales.dtype],
        "scale_stride": scales.stride(0),
        "scale_rows": parts.scale_rows,
        "group": weight.group if scales.shape[1] > 1 else -(-k // 32) * 32,
        "row_scales": 0 if by_row is None else by_row.data_ptr(),
        "row_scale_stride": 0 if by_row is None else by_row.stride(0),
        "zeros": 0 if zeros is None else zeros.data_ptr(),
        "zero_stride": 0 if zeros is None else zeros.stride(0),
    }
    return told, tuple(tensor for tensor in (codes, scales, by_row, zeros) if tensor is not None)


def parts_of(weight: QuantizedWeight) -> Parts:
    """What each format's tensors are to the kernels."""
    match weight:
        case Int4Weight():
            zeros = weight.zero_point
            return Parts(INT4 if zeros is None else INT4_ZERO, weight.packed, weight.scale, 1, OFFSET_8, zeros=zeros)
        case Int8Weight():
            return Parts(INT8, weight.values, weight.scale)
        case Fp8BlockWeight():
            return Parts(FP8, weight.values, weight.scale_inv, BLOCK)
        case Fp8ChannelWeight():
            return Parts(FP8, weight.values, weight.scale)
        case Mxfp4Weight():
            return Parts(FP4, weight.blocks, weight.scales)
        case Nvfp4Weight():
            return Parts(FP4, weight.packed, weight.scale, row_scales=weight.row_scale())
    raise AssertionError(f"no native form of {weight.kind}")
