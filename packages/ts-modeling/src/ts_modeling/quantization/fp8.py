"""FP8 (e4m3): ``weight`` [N, K] beside factors for blocks, for rows or for the whole matrix.

DeepSeek V3's format (arXiv 2412.19437, section 3.3) calls the factors of 128 x 128 blocks ``weight_scale_inv``; the
last blocks may be short. compressed-tensors calls all of them ``weight_scale``, and so does ModelOpt.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from ts_kernels import quantize

from .scheme import FLOATS, Field, Scheme, Source

E4M3 = torch.float8_e4m3fn
E8M0 = torch.float8_e8m0fnu
SPREAD = 114.0
"""Standard deviation of dummy codes."""
KERNEL_BLOCK = (128, 128)
VALUES = Field("weight", ".weight", (E4M3,))
INPUT_SCALE = ".input_scale"


@dataclass(frozen=True)
class Fp8Block(Scheme):
    """Factors of ``block`` (rows, columns), stored as ``suffix``; ``beside`` are tensors that are not read."""

    block: tuple[int, int] = KERNEL_BLOCK
    suffix: str = ".weight_scale_inv"
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        read = "" if self.block == KERNEL_BLOCK else ", read as bf16"
        return f"FP8, blocks of {self.block[0]} x {self.block[1]}{read}"

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Values and factors; bf16 and exponents become fp32."""
        rows, columns = self.block
        dtypes = (torch.float32, torch.bfloat16, E8M0)
        return VALUES, Field(
            "scale", self.suffix, dtypes, rows=rows, columns=columns, dummy="scale", spread=SPREAD, scale=True
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """Scales of activations."""
        return self.beside

    @property
    def ragged(self) -> bool:
        """It may."""
        return True

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """Blocks of 128 x 128 as the kernels read them."""
        values, scale = tensors.pop("weight"), tensors.pop("scale").float()
        if self.block == KERNEL_BLOCK:
            return quantize.Fp8BlockWeight(values, scale)
        rows, columns = self.block
        wide = scale.repeat_interleave(rows, -2)[..., : values.shape[-2], :]
        return (values.float() * wide.repeat_interleave(columns, -1)[..., :k]).bfloat16()


@dataclass(frozen=True)
class Fp8Channel(Scheme):
    """A factor a row, or one for the matrix (``whole``); ``beside`` are tensors that are not read."""

    whole: bool = False
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return f"FP8, {'one scale' if self.whole else 'a scale a row'}"

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Values and factors."""
        rows = 0 if self.whole else 1
        return VALUES, Field(
            "scale", ".weight_scale", FLOATS, rows=rows, columns=0, dummy="scale", spread=SPREAD, scale=True
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """Scales of activations."""
        return self.beside

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """A factor a row in either case."""
        return quantize.Fp8ChannelWeight(tensors.pop("weight"), tensors.pop("scale"))
