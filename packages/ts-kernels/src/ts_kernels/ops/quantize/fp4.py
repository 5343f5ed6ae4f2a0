"""Weights of 4-bit floats (e2m1) with block scales: MXFP4 and NVFP4.

Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; the fourth bit is the sign. A byte holds two, the lower k in the low bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import contract
from ...contract import E4M3_MAX
from .._public import public
from .base import E8M0_NAN, QuantizedWeight, check_numbers, check_rank, check_scale, finite_scales, representable, split
from .fp8 import E4M3, to_e4m3

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MXFP4_BLOCK = 32
NVFP4_BLOCK = 16


@dataclass(frozen=True, eq=False)
class Mxfp4Weight(QuantizedWeight):
    """Blocks uint8 [..., N, K/32, 16] and scales uint8 [..., N, K/32], a power of two 2^(scale - 127) for each block.

    The OCP microscaling format (v1.0) as GPT-OSS checkpoints store it (``*_blocks``, ``*_scales``).
    """

    blocks: Tensor
    scales: Tensor
    kind = "mxfp4"
    group = MXFP4_BLOCK

    def __post_init__(self) -> None:
        name = "quantize.Mxfp4Weight"
        check_rank(name, "blocks", self.blocks, 3, "[..., N, K/32, 16]")
        contract.shape(name, "blocks", self.blocks, *self.blocks.shape[:-1], MXFP4_BLOCK // 2)
        contract.dtype(name, "blocks", self.blocks, torch.uint8)
        contract.shape(name, "scales", self.scales, *self.blocks.shape[:-1])
        contract.dtype(name, "scales", self.scales, torch.uint8)
        contract.device(name, self.blocks, scales=self.scales)
        if contract.debug() and not finite_scales(self.scales):
            contract.fail(name, "scales", f"finite (below {E8M0_NAN})", "the code of NaN")

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return *self.scales.shape[:-1], self.scales.shape[-1] * MXFP4_BLOCK

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]."""
        return (unpack_e2m1(self.blocks) * e8m0(self.scales)[..., None]).flatten(-2)


@dataclass(frozen=True, eq=False)
class Nvfp4Weight(QuantizedWeight):
    """Packed uint8 [..., N, K/2], scale e4m3 [..., N, K/16], global_scale fp32 [...], or [..., N] for each row.

    The weight is code * scale * global_scale (ModelOpt's ``weight_scale_2``; the ``weight_global_scale`` of
    compressed-tensors is its reciprocal). One for each row serves matrices joined of several (gate and up).
    """

    packed: Tensor
    scale: Tensor
    global_scale: Tensor
    kind = "nvfp4"
    group = NVFP4_BLOCK

    def __post_init__(self) -> None:
        name = "quantize.Nvfp4Weight"
        check_rank(name, "packed", self.packed, 2, "[..., N, K/2]")
        contract.dtype(name, "packed", self.packed, torch.uint8)
        *lead, rows, columns = self.shape
        if columns % NVFP4_BLOCK:
            contract.fail(name, "packed", f"[..., N, K/2] with K a multiple of {NVFP4_BLOCK}", self.packed)
        check_scale(name, "scale", self.scale, *lead, rows, columns // NVFP4_BLOCK, dtypes=(E4M3,))
        by_row = (rows,) if self.global_scale.dim() > len(lead) else ()
        check_scale(name, "global_scale", self.global_scale, *lead, *by_row, dtypes=(torch.float32,))
        contract.device(name, self.packed, scale=self.scale, global_scale=self.global_scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return *self.packed.shape[:-1], self.packed.shape[-1] * 2

    def row_scale(self) -> Tensor:
        """The global scale of each row, fp32 [..., N]."""
        by_row = self.global_scale.dim() == self.packed.dim() - 1
        return self.global_scale if by_row else self.global_scale[..., None].expand(self.packed.shape[:-1])

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]: code times scale is exact, times the global scale rounds once."""
        blocks = split(unpack_e2m1(self.packed), NVFP4_BLOCK)
        return ((blocks * self.scale.float()[..., None]).flatten(-2)) * self.row_scale()[..., None]


@public
def quantize_mxfp4(weight: Tensor) -> Mxfp4Weight:
    """Round [..., N, K], all finite, to MXFP4; the scale is 2^(exponent of the block's largest - 2), as OCP MX v1.0
    section 6.3.
    """
    blocks = _blocks("quantize.quantize_mxfp4", weight, MXFP4_BLOCK)
    largest = blocks.abs().amax(-1).clamp_min(2.0**-125)
    representable("quantize.quantize_mxfp4", largest)
    scales = (torch.frexp(largest).exponent - 1 - 2 + 127).clamp(0, 254).to(torch.uint8)
    return Mxfp4Weight(pack_e2m1(blocks / e8m0(scales)[..., None]), scales)


@public
def quantize_nvfp4(weight: Tensor) -> Nvfp4Weight:
    """Round [..., N, K], all finite, to NVFP4; the matrix's largest magnitude is 6 * 448 global scales."""
    blocks = _blocks("quantize.quantize_nvfp4", weight, NVFP4_BLOCK)
    largest = blocks.abs().amax(-1)
    world = (largest.amax((-2, -1)) / (E2M1[-1] * E4M3_MAX)).clamp_min(1e-30)
    representable("quantize.quantize_nvfp4", world)
    scale = to_e4m3(largest / E2M1[-1] / world[..., None, None])
    factor = scale.float() * world[..., None, None]
    values = torch.where(factor[..., None] > 0, blocks / factor[..., None], 0.0)
    return Nvfp4Weight(pack_e2m1(values.flatten(-2)), scale, world)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """uint8 [..., B] to fp32 [..., 2B]."""
    table = torch.tensor((*E2M1, *(-value for value in E2M1)), dtype=torch.float32, device=packed.device)
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    return table[codes.long()]


def pack_e2m1(values: Tensor) -> Tensor:
    """fp32 [..., 2B] to the nearest codes, ties to the even code, beyond 6 to 6: uint8 [..., B]."""
    magnitude, code = values.abs(), torch.zeros_like(values, dtype=torch.uint8)
    for lower in range(7):
        middle = (E2M1[lower] + E2M1[lower + 1]) / 2
        code += (magnitude > middle) if lower % 2 == 0 else (magnitude >= middle)
    code |= values.signbit().to(torch.uint8) << 3
    packed: Tensor = code[..., 0::2] | code[..., 1::2] << 4
    return packed


def e8m0(codes: Tensor) -> Tensor:
    """Powers of two 2^(code - 127) in fp32, the lowest subnormal; code 255 is NaN."""
    powers = [2.0 ** (code - 127) for code in range(E8M0_NAN)]
    return torch.tensor([*powers, torch.nan], dtype=torch.float64, device=codes.device).float()[codes.long()]


def _blocks(name: str, weight: Tensor, size: int) -> Tensor:
    """fp32 [..., N, K/size, size]."""
    check_numbers(name, weight)
    if weight.shape[-1] % size:
        contract.fail(name, "weight", f"[..., N, K] with K a multiple of {size}", weight)
    return split(weight.float(), size)
