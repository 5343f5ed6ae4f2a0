"""Native quantization of activations (csrc/layout/fp8.cpp). Arguments have passed the public functions' checks."""

import torch
from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows
from .fp8 import BLOCK, E4M3


def fp8_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, 1]."""
    return _quantize(x, x.shape[1])


def fp8_per_group(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, ceil(D / 128)]."""
    return _quantize(x, BLOCK)


def _quantize(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    x = rows(x)
    tokens, width = x.shape
    values = empty((tokens, width), torch.uint8)
    scale = empty((tokens, -(-width // group)), torch.float32)
    _native.quantize_fp8(
        x.data_ptr(), x.stride(0), tokens, width, CODE[x.dtype], group, values.data_ptr(), scale.data_ptr()
    )
    return values.view(E4M3), scale
