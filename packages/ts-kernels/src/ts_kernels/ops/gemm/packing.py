"""Quantized weights as the native kernels take them: bytes of codes, scales by row and group (csrc/layout/packed.h)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import _native, contract
from .._tensors import CODE
from ..quantize.formats import (
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
    QuantizedWeight,
)
from ..quantize.fp4 import e8m0
from ..quantize.fp8 import BLOCK

INT4, INT4_ZERO, INT8, FP8, FP4 = 2, 3, 4, 5, 6
OFFSET_8 = 0x88888888


@dataclass(frozen=True)
class Parts:
    """Format code, row-major codes, what makes them two's complement, scales and zero points fp32 or bf16 [N, G]."""

    format: int
    codes: Tensor
    scales: Tensor
    flip: int = 0
    zeros: Tensor | None = None


def pack_quantized(weight: QuantizedWeight) -> _native.PackedLinear:
    """One matrix, packed. Raises ``ContractError`` for FP8 codes of NaN."""
    n, k = weight.shape
    parts = parts_of(weight)
    codes, scales, zeros = parts.codes.contiguous(), parts.scales.contiguous(), parts.zeros
    zeros = None if zeros is None else zeros.float().contiguous()
    return _native.PackedLinear.from_quantized(
        parts.format,
        n,
        k,
        weight.group if scales.shape[-1] > 1 else -(-k // 32) * 32,
        codes.data_ptr(),
        parts.flip,
        scales.data_ptr(),
        CODE[scales.dtype],
        0 if zeros is None else zeros.data_ptr(),
    )


def parts_of(weight: QuantizedWeight) -> Parts:
    """What each format's tensors are to the kernels."""
    match weight:
        case Int4Weight():
            zeros = None if weight.zero_point is None else weight.zeros() - 8
            return Parts(INT4 if zeros is None else INT4_ZERO, weight.packed, _scales(weight.scale), OFFSET_8, zeros)
        case Int8Weight():
            return Parts(INT8, weight.values, _scales(weight.scale))
        case Fp8BlockWeight():
            rows = weight.scale_inv.repeat_interleave(BLOCK, 0)[: weight.shape[0]]
            return Parts(FP8, _finite(weight.values), rows)
        case Fp8ChannelWeight():
            return Parts(FP8, _finite(weight.values), _scales(weight.scale))
        case Mxfp4Weight():
            return Parts(FP4, weight.blocks, e8m0(weight.scales).bfloat16())
        case Nvfp4Weight():
            return Parts(FP4, weight.packed, weight.scale.float() * weight.row_scale()[:, None])
    raise AssertionError(f"no native form of {weight.kind}")


def _scales(scale: Tensor) -> Tensor:
    """bf16 stays bf16, the others become fp32."""
    return scale if scale.dtype == torch.bfloat16 else scale.float()


def _finite(values: Tensor) -> Tensor:
    if bool((values.view(torch.uint8) & 0x7F == 0x7F).any()):
        contract.fail("gemm.prepare", "weight", "finite", "FP8 codes of NaN")
    return values
