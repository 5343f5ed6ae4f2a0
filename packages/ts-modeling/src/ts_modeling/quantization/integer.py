"""Integers of compressed-tensors: INT4 and INT8 in words (``pack-quantized``), INT8 alone (``int-quantized``).

A packed value is stored with an offset of half its range, 8 or 4 of them in an int32 along K, the lowest bits first:
``weight_packed`` [N, K/8 or K/4], ``weight_scale`` [N, K/group] ([N, 1] for a whole row), and, where the format is not
symmetric, ``weight_zero_point`` packed likewise along N: int32 [N/8 or N/4, K/group]. INT8 alone is ``weight`` int8
[N, K] with scales, and zero points int8, of the same shape. The weight is (value - zero point) * scale.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from ts_kernels import quantize

from .scheme import FLOATS, Field, Scheme, Source


@dataclass(frozen=True)
class _Integers(Scheme):
    """``group`` 0 is a scale for a whole row."""

    bits: int
    group: int
    symmetric: bool = True
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        zeros = "" if self.symmetric else " with zero points"
        read = "" if self.symmetric or self.bits == 4 else ", read as bf16"
        return f"INT{self.bits}, {f'groups of {self.group}' if self.group else 'a scale a row'}{zeros}{read}"

    @property
    def unused(self) -> tuple[str, ...]:
        """Scales of activations."""
        return self.beside

    def _field(self, key: str, suffix: str, dtype: torch.dtype, *, rows: int = 1, columns: int = 1) -> Field:
        return Field(key, suffix, (dtype,), rows=rows, columns=columns)

    def _scale(self) -> Field:
        spread = 2.0**self.bits * 12**-0.5
        return Field("scale", ".weight_scale", FLOATS, columns=self.group, dummy="scale", spread=spread, scale=True)


@dataclass(frozen=True)
class PackedInt(_Integers):
    """``bits`` of 4 or 8, in words."""

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Words, scales and perhaps zero points."""
        each = 32 // self.bits
        words = self._field("packed", ".weight_packed", torch.int32, columns=each)
        if self.symmetric:
            return words, self._scale()
        zeros = self._field("zero", ".weight_zero_point", torch.int32, rows=each, columns=self.group)
        return words, self._scale(), zeros

    @property
    def says_shape(self) -> bool:
        """It does."""
        return True

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """INT4, and symmetric INT8, as the kernels read it."""
        if self.bits == 4:
            return quantize.Int4Weight(tensors.pop("packed"), tensors.pop("scale"), tensors.pop("zero", None))
        values = _unpacked(tensors.pop("packed"))[..., :k]
        if self.symmetric:
            return quantize.Int8Weight(values, tensors.pop("scale"))
        zeros = _unpacked(tensors.pop("zero").transpose(-1, -2)).transpose(-1, -2)
        return _shifted(values, tensors.pop("scale"), zeros[..., : values.shape[-2], :])


@dataclass(frozen=True)
class Int8(_Integers):
    """One value a byte; ``bits`` is 8."""

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Values, scales and perhaps zero points."""
        values = self._field("weight", ".weight", torch.int8)
        if self.symmetric:
            return values, self._scale()
        return values, self._scale(), self._field("zero", ".weight_zero_point", torch.int8, columns=self.group)

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """INT8 as the kernels read it."""
        if self.symmetric:
            return quantize.Int8Weight(tensors.pop("weight"), tensors.pop("scale"))
        return _shifted(tensors.pop("weight"), tensors.pop("scale"), tensors.pop("zero"))


def _unpacked(words: Tensor) -> Tensor:
    """int32 [..., W] to int8 [..., 4W]: the bytes in memory are the values in order, plus 128."""
    values = words.contiguous().view(torch.uint8)
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy() ^ 128).view(torch.int8)  # in this thread: torch's wait for one another
    return (values ^ 128).view(torch.int8)


def _shifted(values: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """(value - zero point) * scale, bf16: no kernel reads INT8 with zero points."""
    groups = values.reshape(*scale.shape, -1).float()
    whole: Tensor = (groups - zeros[..., None]) * scale.float()[..., None]
    return whole.flatten(-2).bfloat16()
