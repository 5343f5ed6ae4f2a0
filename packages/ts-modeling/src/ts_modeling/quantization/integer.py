"""INT4 and INT8 of the compressed-tensors library, ``pack-quantized``.

A value is stored with an offset of half its range, 8 or 4 of them in an int32 along K, the lowest bits first:
``weight_packed`` [N, K/8 or K/4], ``weight_scale`` [N, K/group] ([N, 1] for a whole row), and, where the format is not
symmetric, ``weight_zero_point`` packed likewise along N: int32 [N/8 or N/4, K/group].
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from ts_kernels.ops.gemm import Source
from ts_kernels.ops.quantize import Int4Weight

from .scheme import FLOATS, Field, Scheme


@dataclass(frozen=True)
class PackedInt(Scheme):
    """``bits`` of 4; ``group`` 0 is a scale for a whole row."""

    bits: int
    group: int
    symmetric: bool = True

    @property
    def label(self) -> str:
        """For people."""
        kind = "" if self.symmetric else " with zero points"
        return f"INT{self.bits}, {f'groups of {self.group}' if self.group else 'a scale a row'}{kind}"

    @property
    def fields(self) -> tuple[Field, ...]:
        """Words, scales and perhaps zero points."""
        each = 32 // self.bits
        spread = 2.0**self.bits * 12**-0.5
        words = Field("packed", ".weight_packed", (torch.int32,), columns=each)
        scale = Field("scale", ".weight_scale", FLOATS, columns=self.group, dummy="scale", spread=spread, scale=True)
        if self.symmetric:
            return words, scale
        zeros = Field("zero", ".weight_zero_point", (torch.int32,), rows=each, columns=self.group)
        return words, scale, zeros

    @property
    def says_shape(self) -> bool:
        """It does."""
        return True

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """INT4 as the kernels read it."""
        return Int4Weight(tensors.pop("packed"), tensors.pop("scale"), tensors.pop("zero", None))
