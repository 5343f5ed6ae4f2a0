"""4-bit floats (e2m1), two in a byte, with factors for blocks along K: MXFP4 and NVFP4.

MXFP4 has powers of two for blocks of 32 (OCP microscaling formats v1.0), stored as exponents plus 127. GPT-OSS stores
the experts of a layer as ``*_blocks`` [E, N, K/32, 16] and ``*_scales`` [E, N, K/32]; compressed-tensors a matrix as
``weight_packed`` [N, K/2] and ``weight_scale`` [N, K/32].

NVFP4 has e4m3 factors for blocks of 16 and one fp32 factor for the matrix. ModelOpt's ``weight_scale_2`` multiplies;
the ``weight_global_scale`` of compressed-tensors divides.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from ts_kernels import quantize

from ..errors import CheckpointError
from .fp8 import E4M3, E8M0
from .scheme import Field, Scheme, Source

MX_BLOCK = 32
NV_BLOCK = 16
SPREAD = 2.9
"""Standard deviation of random codes."""


@dataclass(frozen=True)
class Mxfp4(Scheme):
    """``blocks``: as GPT-OSS names and shapes it, else as compressed-tensors does."""

    blocks: bool = False
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return "MXFP4"

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Codes and exponents."""
        codes = Field("packed", ".weight_packed", (torch.uint8,), columns=2)
        if self.blocks:
            codes = Field("blocks", "_blocks", (torch.uint8,), columns=MX_BLOCK, tail=(MX_BLOCK // 2,))
        key, suffix = ("scales", "_scales") if self.blocks else ("scale", ".weight_scale")
        exponents = Field(
            key, suffix, (torch.uint8, E8M0), columns=MX_BLOCK, dummy="exponent", spread=SPREAD, scale=True
        )
        return codes, exponents

    @property
    def unused(self) -> tuple[str, ...]:
        """Scales of activations."""
        return self.beside

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """As the kernels read it."""
        if self.blocks:
            return quantize.Mxfp4Weight(tensors.pop("blocks"), tensors.pop("scales").view(torch.uint8))
        scale, packed = tensors.pop("scale"), tensors.pop("packed")
        return quantize.Mxfp4Weight(packed.reshape(*scale.shape, MX_BLOCK // 2), scale.view(torch.uint8))


@dataclass(frozen=True)
class Nvfp4(Scheme):
    """``divides``: as compressed-tensors names it and means the factor of the matrix, else as ModelOpt does."""

    divides: bool
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return "NVFP4"

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Codes, factors of blocks and that of the matrix."""
        codes, whole = (".weight_packed", ".weight_global_scale") if self.divides else (".weight", ".weight_scale_2")
        return (
            Field("packed", codes, (torch.uint8,), columns=2),
            Field("scale", ".weight_scale", (E4M3,), columns=NV_BLOCK, dummy="ones", scale=True),
            Field(
                "global",
                whole,
                (torch.float32,),
                rows=0,
                columns=0,
                dummy="inverse" if self.divides else "scale",
                spread=SPREAD,
                scale=True,
            ),
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """Scales of activations."""
        return self.beside

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """As the kernels read it: one factor a row, since rows may come from several matrices."""
        factor = tensors.pop("global").squeeze(-1)
        if self.divides:
            if bool((factor == 0).any()):
                raise CheckpointError("weight_global_scale is 0, by which nothing can be divided; copy the file again")
            factor = factor.reciprocal()
        return quantize.Nvfp4Weight(tensors.pop("packed"), tensors.pop("scale"), factor)
