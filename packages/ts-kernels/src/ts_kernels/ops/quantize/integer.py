"""INT4 and INT8 weights as the compressed-tensors library stores them ("pack-quantized", "int-quantized").

A nibble or byte is stored with an offset of half its range: j-th of 8 (or 4) in a 32-bit word, the lowest bits first,
along K. Zero points are packed in the same way along N. The weight is (value - zero point) * scale of its group.
Activation-ordered groups (``g_idx``) are not supported.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import contract
from .._public import public
from .base import QuantizedWeight, check_numbers, check_rank, check_scale, representable, split

GROUPS = (32, 64, 128)


@dataclass(frozen=True, eq=False)
class Int4Weight(QuantizedWeight):
    """Packed int32 [..., N, K/8], scale bf16, fp16 or fp32 [..., N, G], packed zero_point int32 [..., ceil(N/8), G].

    G is K/32, K/64 or K/128, or 1 (a scale for a whole row). Without ``zero_point`` it is symmetric.
    """

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None = None

    def __post_init__(self) -> None:
        name = "quantize.Int4Weight"
        check_rank(name, "packed", self.packed, 2, "[..., N, K/8]")
        contract.dtype(name, "packed", self.packed, torch.int32)
        *lead, rows, columns = self.shape
        check_scale(name, "scale", self.scale, *lead, rows, _groups(name, self.scale, columns))
        contract.device(name, self.packed, scale=self.scale)
        if self.zero_point is not None:
            contract.shape(name, "zero_point", self.zero_point, *lead, -(-rows // 8), self.scale.shape[-1])
            contract.dtype(name, "zero_point", self.zero_point, torch.int32)
            contract.device(name, self.packed, zero_point=self.zero_point)

    @property
    def kind(self) -> str:  # type: ignore[override]
        """ "int4", or "int4-zp" with zero points."""
        return "int4" if self.zero_point is None else "int4-zp"

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return *self.packed.shape[:-1], self.packed.shape[-1] * 8

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.shape[-1] // self.scale.shape[-1]

    def zeros(self) -> Tensor:
        """Zero points as stored values 0 to 15, int32 [..., N, G]; 8 where symmetric."""
        if self.zero_point is None:
            return torch.full_like(self.scale, 8, dtype=torch.int32)
        return unpack_words(self.zero_point.transpose(-1, -2), 4)[..., : self.shape[-2]].transpose(-1, -2)

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]."""
        values = split(unpack_words(self.packed, 4), self.group)
        return ((values - self.zeros()[..., None]).float() * self.scale.float()[..., None]).flatten(-2)


@dataclass(frozen=True, eq=False)
class Int8Weight(QuantizedWeight):
    """Values int8 [..., N, K] and scale bf16, fp16 or fp32 [..., N, G], symmetric; G as in ``Int4Weight``."""

    values: Tensor
    scale: Tensor
    kind = "int8"

    def __post_init__(self) -> None:
        name = "quantize.Int8Weight"
        check_rank(name, "values", self.values, 2, "[..., N, K]")
        contract.dtype(name, "values", self.values, torch.int8)
        *lead, rows, columns = self.shape
        check_scale(name, "scale", self.scale, *lead, rows, _groups(name, self.scale, columns))
        contract.device(name, self.values, scale=self.scale)

    @classmethod
    def from_packed(cls, packed: Tensor, scale: Tensor, columns: int) -> "Int8Weight":
        """From "pack-quantized" words int32 [..., N, ceil(K/4)]; ``columns`` is K."""
        contract.shape("quantize.Int8Weight", "packed", packed, *packed.shape[:-1], -(-columns // 4))
        return cls((unpack_words(packed, 8)[..., :columns] - 128).to(torch.int8), scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""
        return tuple(self.values.shape)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.shape[-1] // self.scale.shape[-1]

    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]."""
        grouped = split(self.values, self.group).float()
        return (grouped * self.scale.float()[..., None]).flatten(-2)


@public
def quantize_int4(
    weight: Tensor, group: int | None = 32, *, zero_point: bool = False, scale_dtype: torch.dtype = torch.bfloat16
) -> Int4Weight:
    """Round [..., N, K], all finite, K a multiple of 8, to INT4; ``group`` None is a whole row. Symmetric: the largest
    magnitude is 7 steps. Raises ``ContractError``.
    """
    groups = _grouped("quantize.quantize_int4", weight, group)
    if weight.shape[-1] % 8:
        contract.fail("quantize.quantize_int4", "weight", "[..., N, K] with K a multiple of 8", weight)
    if zero_point:
        low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
        scale = _nonzero("quantize.quantize_int4", ((high - low) / 15).to(scale_dtype))
        zeros = (-low / scale.float()).round().clamp(0, 15).long()
    else:
        scale = _nonzero("quantize.quantize_int4", (groups.abs().amax(-1) / 7).to(scale_dtype))
        zeros = torch.full_like(scale, 8, dtype=torch.int64)
    values = ((groups / scale.float()[..., None]).round() + zeros[..., None]).clamp(0, 15).long()
    packed = pack_words(values.flatten(-2), 4)
    return Int4Weight(packed, scale, _pack_rows(zeros) if zero_point else None)


@public
def quantize_int8(weight: Tensor, group: int | None = None, *, scale_dtype: torch.dtype = torch.bfloat16) -> Int8Weight:
    """Round [..., N, K], all finite, to INT8, each group's largest magnitude being 127 steps; ``group`` None is a whole
    row. Raises ``ContractError``.
    """
    groups = _grouped("quantize.quantize_int8", weight, group)
    scale = _nonzero("quantize.quantize_int8", (groups.abs().amax(-1) / 127).to(scale_dtype))
    values = (groups / scale.float()[..., None]).round().clamp(-128, 127)
    return Int8Weight(values.flatten(-2).to(torch.int8), scale)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """int32 [..., W] to the stored values, int32 [..., W * 32/bits], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    values: Tensor = (words[..., None] >> shifts) & (2**bits - 1)
    return values.flatten(-2)


def pack_words(values: Tensor, bits: int) -> Tensor:
    """The inverse of ``unpack_words``: values int64 [..., M], M a multiple of 32/bits."""
    shifts = torch.arange(0, 32, bits, device=values.device)
    words = (split(values, 32 // bits) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int().contiguous()


def _nonzero(name: str, scale: Tensor) -> Tensor:
    """1 in place of 0, for groups of zeros; raises ``ContractError`` for what is not finite."""
    representable(name, scale)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _pack_rows(zeros: Tensor) -> Tensor:
    """Zero points [..., N, G] to int32 [..., ceil(N/8), G]."""
    columns = zeros.transpose(-1, -2)
    padded = torch.nn.functional.pad(columns, (0, -columns.shape[-1] % 8))
    return pack_words(padded, 4).transpose(-1, -2).contiguous()


def _grouped(name: str, weight: Tensor, group: int | None) -> Tensor:
    """fp32 [..., N, G, group]."""
    check_numbers(name, weight)
    size = weight.shape[-1] if group is None else group
    if size < 1 or weight.shape[-1] % size:
        contract.fail(name, "group", f"a divisor of K = {weight.shape[-1]}", group)
    return split(weight.float(), size)


def _groups(name: str, scale: Tensor, columns: int) -> int:
    """Number of groups that ``scale`` has, if it is one of those allowed for K = ``columns``."""
    have = scale.shape[-1] if scale.dim() else 0
    if have == 1 or any(columns == have * group for group in GROUPS):
        return have
    return contract.fail(name, "scale", f"[..., N, G] with G of K/32, K/64, K/128 or 1, where K = {columns}", scale)
