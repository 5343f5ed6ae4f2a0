"""From patches of images to rows, and from rows of patches to the fewer that a text model reads (MoonViT, 2504.07491).

Batches hold ``grid``: frames, rows and columns of each chunk, whose patches follow one another in that order.

Legend: P patches, X pixels of one patch, D width, R and C rows and columns of the learned table, M merged tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import gemm

from ..placement import OPAQUE, SAMPLES, TOKENS, Boundary, Dim, Replicate, Shard, Spec
from .leaf import Buffer, Leaf, Slot


class PatchEmbed(Leaf):
    """Projection of each patch plus its place: a learned table resampled to the image's rows and columns (bicubic), and
    for chunks of several frames a fixed sinusoid of the frame."""

    def __init__(
        self, pixels: Dim, hidden: Dim, *, patch: int, grid: tuple[int, int], frames: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        assert hidden.size is not None
        self.patch, self.width, self.grid, self.dtype = patch, hidden.size, grid, dtype
        self.frames_TD = sinusoids(frames, hidden.size)
        takes, gives = Spec(TOKENS, pixels, attn_dp=Shard("tokens")), Spec(TOKENS, hidden, attn_dp=Shard("tokens"))
        self.boundary = Boundary((takes, OPAQUE), (gives,))

    def forward(self, x_PX: Tensor, batch: Any) -> Tensor:
        """[P, X] and the batch -> [P, D]."""
        out_PD = gemm.linear(x_PX, self.weight)
        start = 0
        for frames, rows, columns in batch.grid:
            stop = start + frames * rows * columns
            place_D = F.interpolate(self.table_1DRC, (rows, columns), mode="bicubic")[0].flatten(1).t()
            if frames > 1:
                place_D = (place_D + self.frames_TD[:frames, None].to(place_D.device)).flatten(0, 1)
            out_PD[start:stop] += place_D.to(out_PD.dtype)
            start = stop
        return out_PD

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The projection and the table of places."""
        return {
            "weight": Buffer((self.width, 3, self.patch, self.patch)),
            "bias": Buffer((self.width,), init="zeros"),
            "positions": Buffer((*self.grid, self.width)),
        }

    def slot(self, part: str) -> Slot:
        """Each tensor whole on every rank."""
        return Slot(part, self.buffers_wanted()[part].shape)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """The table stays float32: it is resampled for every size of image."""
        self.weight = gemm.prepare(tensors.pop("weight").flatten(1), bias=tensors.pop("bias"))
        self.table_1DRC = tensors.pop("positions").float().permute(2, 0, 1).contiguous()[None]


class PoolPatches(Leaf):
    """Mean over a chunk's frames, and patches brought in the order in which ``merge`` rows x columns become one."""

    def __init__(self, hidden: Dim, merge: tuple[int, int]) -> None:
        super().__init__()
        self.merge = merge
        self.boundary = Boundary(
            (Spec(TOKENS, hidden, attn_dp=Shard("tokens"), attn_tp=Replicate()), OPAQUE),
            (Spec(SAMPLES, hidden, attn_dp=Shard("samples"), attn_tp=Replicate()),),
        )

    def forward(self, x_PD: Tensor, batch: Any) -> Tensor:
        """[P, D] and the batch -> [M * merge, D]."""
        (high, wide), width = self.merge, x_PD.shape[1]
        parts, start = [x_PD[:0]], 0
        for frames, rows, columns in batch.grid:
            stop = start + frames * rows * columns
            chunk = x_PD[start:stop].view(frames, rows // high, high, columns // wide, wide, width).mean(0)
            parts.append(chunk.transpose(1, 2).reshape(-1, width))
            start = stop
        return torch.cat(parts)


class JoinRows(Leaf):
    """As many rows as the widths say, one after the other, as one: [M * n, D] -> [M, n * D]."""

    def __init__(self, takes: Dim, gives: Dim) -> None:
        super().__init__()
        assert gives.size is not None
        self.width = gives.size
        specs = tuple(Spec(SAMPLES, d, attn_dp=Shard("samples"), attn_tp=Replicate()) for d in (takes, gives))
        self.boundary = Boundary(specs[:1], specs[1:])

    def forward(self, x_MD: Tensor) -> Tensor:
        """[M * n, D] -> [M, n * D]."""
        return x_MD.view(-1, self.width)


def sinusoids(frames: int, width: int) -> Tensor:
    """Sines, then cosines of each frame's number at ``width / 2`` frequencies, fp32 [frames, width]."""
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.arange(frames, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)
