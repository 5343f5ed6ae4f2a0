"""FP8 weights (e4m3 without infinities, largest 448) with scales by block or by row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import contract
from ...contract import E4M3_MAX
from .._public import public
from .base import QuantizedWeight, check_numbers, check_rank, check_scale, representable

BLOCK = 128
E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True, eq=False)
class Fp8BlockWeight(QuantizedWeight):
    """Values e4m3 [..., N, K] and scale_inv fp32 [..., ceil(N/128), ceil(K/128)], a factor for each 128x128 block.

    DeepSeek-V3's format (arXiv 2412.19437, section 3.3): ``weight`` and ``weight_scale_inv`` of its checkpoints.
    """

    values: Tensor
    scale_inv: Tensor
    kind = "fp8-block"
    group = BLOCK

    def __post_init__(self) -> None:
        name = "quantize.Fp8BlockWeight"
        check_rank(name, "values", self.values, 2, "[..., N, K]")
        contract.dtype(name, "values", self.values, E4M3)
        *lead, rows, columns = self.shape
        blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
        check_scale(name, "scale_inv", self.scale_inv, *lead, *blocks, dtypes=(torch.float32,))
        contract.device(name, self.values, scale_inv=self.scale_inv)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return tuple(self.values.shape)

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]."""
        rows, columns = self.shape[-2:]
        wide = self.scale_inv.repeat_interleave(BLOCK, -2)[..., :rows, :].repeat_interleave(BLOCK, -1)[..., :columns]
        return self.values.float() * wide


@dataclass(frozen=True, eq=False)
class Fp8ChannelWeight(QuantizedWeight):
    """Values e4m3 [..., N, K] and scale bf16, fp16 or fp32 [..., N, 1], a factor for each row."""

    values: Tensor
    scale: Tensor
    kind = "fp8-channel"

    def __post_init__(self) -> None:
        name = "quantize.Fp8ChannelWeight"
        check_rank(name, "values", self.values, 2, "[..., N, K]")
        contract.dtype(name, "values", self.values, E4M3)
        check_scale(name, "scale", self.scale, *self.shape[:-1], 1)
        contract.device(name, self.values, scale=self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return tuple(self.values.shape)

    @property
    def group(self) -> int:
        """Inputs that share a scale: all."""
        return self.shape[-1]

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]."""
        return self.values.float() * self.scale.float()


@public
def quantize_fp8_block(weight: Tensor) -> Fp8BlockWeight:
    """Round [..., N, K], all finite, to e4m3, each 128x128 block's largest magnitude being 448."""
    check_numbers("quantize.quantize_fp8_block", weight)
    rows, columns = weight.shape[-2:]
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.reshape(*weight.shape[:-2], -1, BLOCK, padded.shape[-1] // BLOCK, BLOCK)
    scale = (blocks.abs().amax((-3, -1)) / E4M3_MAX).clamp_min(1e-12)
    representable("quantize.quantize_fp8_block", scale)
    values = to_e4m3(blocks / scale[..., :, None, :, None]).flatten(-2).flatten(-3, -2)
    return Fp8BlockWeight(values[..., :rows, :columns].contiguous(), scale)


@public
def quantize_fp8_channel(weight: Tensor) -> Fp8ChannelWeight:
    """Round [..., N, K], all finite, to e4m3, each row's largest magnitude being 448."""
    check_numbers("quantize.quantize_fp8_channel", weight)
    scale = (weight.float().abs().amax(-1, keepdim=True) / E4M3_MAX).clamp_min(1e-12)
    representable("quantize.quantize_fp8_channel", scale)
    return Fp8ChannelWeight(to_e4m3(weight.float() / scale), scale)


def to_e4m3(x: Tensor) -> Tensor:
    """Nearest e4m3, ties to even; what is beyond the largest becomes the largest."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
