"""Expert weights as the grouped product reads them. Legend: E experts, N rows, K columns.

Four-bit codes are laid anew: in each 128 columns, byte b holds column b in its low half and column 64 + b in its high
half. So both halves of a tile of bytes meet 64 activations in a row, with nothing to interleave. K is padded to whole
128 columns by codes of zero. FP8 and INT8 stay as they are, and plain tensors are taken as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...quantize.formats import (
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
)
from ..weights import ExpertSource, ExpertWeights

SPAN = 128


@dataclass(frozen=True, eq=False)
class TiledMatrix:
    """values [E, N, bytes or K]; scale [E, N, groups] (blocks of 128x128: [E, N/128, K/128]); zero as scale;
    row_scale fp32 [E, N]. ``group`` columns share a scale.
    """

    kind: str
    rows: int
    columns: int
    group: int
    values: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None
    row_scale: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in (self.values, self.scale, self.zero, self.row_scale) if t is not None)


@dataclass(frozen=True, eq=False)
class TiledExperts:
    """Both matrices of a layer."""

    gate_up: TiledMatrix
    down: TiledMatrix

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.gate_up.nbytes + self.down.nbytes


def tile_experts(layer: ExpertWeights) -> TiledExperts:
    """A layer's two matrices."""
    gate_up, down = layer.sources()
    return TiledExperts(tile(gate_up), tile(down))


def tile(source: ExpertSource) -> TiledMatrix:
    """One stack of matrices in the kernels' layout."""
    if isinstance(source, Tensor):
        _, rows, columns = source.shape
        return TiledMatrix("dense", rows, columns, columns, source.contiguous())
    _, rows, columns = source.shape
    if isinstance(source, Int4Weight):
        return _tile_int4(source)
    if isinstance(source, Int8Weight):
        return _tile_int8(source)
    if isinstance(source, Mxfp4Weight):
        values = _halves(source.blocks.flatten(-2), columns)
        return TiledMatrix("mxfp4", rows, columns, source.group, values, _whole(source.scales, source.group))
    if isinstance(source, Nvfp4Weight):
        scale = _whole(source.scale.view(torch.uint8), source.group)
        values, factor = _halves(source.packed, columns), source.row_scale().contiguous()
        return TiledMatrix("nvfp4", rows, columns, source.group, values, scale, row_scale=factor)
    assert isinstance(source, Fp8BlockWeight | Fp8ChannelWeight)
    return _tile_fp8(source)


def _tile_fp8(source: Fp8BlockWeight | Fp8ChannelWeight) -> TiledMatrix:
    _, rows, columns = source.shape
    values = source.values.view(torch.uint8).contiguous()
    if isinstance(source, Fp8BlockWeight):
        return TiledMatrix(source.kind, rows, columns, SPAN, values, source.scale_inv.contiguous())
    factor = source.scale.float().flatten(-2).contiguous()
    return TiledMatrix(source.kind, rows, columns, columns, values, row_scale=factor)


def _tile_int4(source: Int4Weight) -> TiledMatrix:
    _, rows, columns = source.shape
    group = _group(source.group)
    values = _halves(source.packed.contiguous().view(torch.uint8), columns, code=8)
    zero = None if source.zero_point is None else _spread(source.zeros().to(torch.bfloat16), columns, group)
    return TiledMatrix(source.kind, rows, columns, group, values, _spread(source.scale, columns, group), zero)


def _tile_int8(source: Int8Weight) -> TiledMatrix:
    """One scale a row is a factor of the product; else as INT4's."""
    _, rows, columns = source.shape
    values = source.values.contiguous().view(torch.uint8)
    if source.scale.shape[-1] == 1:
        factor = source.scale.float().flatten(-2).contiguous()
        return TiledMatrix(source.kind, rows, columns, columns, values, row_scale=factor)
    group = _group(source.group)
    return TiledMatrix("int8-group", rows, columns, group, values, _spread(source.scale, columns, group))


def _group(given: int) -> int:
    """Groups of more than 64 columns are repeated for each 64: two scales of a span are 4 bytes, which prefetch."""
    return 32 if given == 32 else SPAN // 2


def _spread(scale: Tensor, columns: int, group: int) -> Tensor:
    """``scale`` [E, N, G] repeated for each ``group`` columns, of whole spans."""
    groups = -(-columns // group)
    return _whole(scale.repeat_interleave(-(-groups // scale.shape[-1]), -1)[..., :groups], group)


def _whole(scale: Tensor, group: int) -> Tensor:
    """Scales of whole spans, zero beyond the last column."""
    return torch.nn.functional.pad(scale, (0, -scale.shape[-1] % (SPAN // group))).contiguous()


def _halves(packed: Tensor, columns: int, code: int = 0) -> Tensor:
    """Bytes of two neighbours, uint8 [E, N, K/2], to bytes of columns 64 apart; an expert at a time."""
    experts, rows, _ = packed.shape
    padded = columns + -columns % SPAN
    out = torch.empty((experts, rows, padded // 2), dtype=torch.uint8, device=packed.device)
    for expert in range(experts):
        codes = torch.stack((packed[expert] & 15, packed[expert] >> 4), -1).flatten(-2)
        codes = torch.nn.functional.pad(codes, (0, padded - columns), value=code)
        low, high = codes.view(rows, -1, 2, SPAN // 2).unbind(2)
        out[expert] = (low | high << 4).flatten(-2)
    return out
