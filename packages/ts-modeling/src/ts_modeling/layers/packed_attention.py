"""Attention within each image of a packed batch, rotated by rows and columns.

Legend: P patches, H heads of this rank, W width of one head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from ts_kernels import rope

from ..placement import OPAQUE, TOKENS, Boundary, Dim, Mesh, Replicate, Shard, Spec
from .leaf import Leaf
from .stack import local_size


def _rotations(width: int) -> Spec:
    return Spec(TOKENS, Dim("rotations", width), attn_dp=Shard("tokens"), attn_tp=Replicate()).sized(4)


class GridRotary(Leaf):
    """Cosines and sines of every patch, made once for all layers: even pairs turn by its column, odd ones by row."""

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        assert width % 4 == 0
        self.frequencies = theta ** -(torch.arange(0, width, 4, dtype=torch.float32) / width)
        self.boundary = Boundary((OPAQUE,), (_rotations(width),))

    def forward(self, batch: Any) -> Tensor:
        """fp32 [P, W]: cosines of W / 2 pairs, then sines."""
        device = batch.patches.device
        frequencies = self.frequencies.to(device)
        parts = [torch.empty(0, 4 * len(frequencies), device=device)]
        for frames, rows, columns in batch.grid:
            down = torch.arange(rows, device=device)[:, None].expand(rows, columns)
            across = torch.arange(columns, device=device).expand(rows, columns)
            places = torch.stack((across, down), dim=-1).view(-1, 1, 2)
            angles = (places * frequencies[:, None]).flatten(1)
            parts.append(torch.cat((angles.cos(), angles.sin()), dim=1).repeat(frames, 1))
        return torch.cat(parts)


class PackedAttention(Leaf):
    """Every patch attends to all patches of its chunk (an image, or a few frames of a video), heads over ``attn_tp``.

    torch's attention serves it chunk by chunk: the kernels' own attention is causal over a paged cache.
    """

    def __init__(self, fused: Dim, outputs: Dim, heads: int, mesh: Mesh) -> None:
        super().__init__()
        assert outputs.size is not None
        self.width = outputs.size // heads
        self.heads = local_size("the vision tower's number of heads", heads, mesh, "attn_tp")
        self.boundary = Boundary(
            (
                Spec(TOKENS, fused, attn_dp=Shard("tokens"), attn_tp=Shard(fused.name)),
                _rotations(self.width),
                OPAQUE,
            ),
            (Spec(TOKENS, outputs, attn_dp=Shard("tokens"), attn_tp=Shard(outputs.name)),),
        )

    def forward(self, qkv_PC: Tensor, turns_PW: Tensor, batch: Any) -> Tensor:
        """Queries, keys and values [P, 3 * H * W], their rotations and the batch -> [P, H * W]."""
        count = len(qkv_PC)
        qkv_P3HW = qkv_PC.view(count, 3, self.heads, self.width)
        places_P = torch.arange(count, device=qkv_PC.device)
        for i in (0, 1):
            rope.apply_interleaved(qkv_P3HW[:, i], turns_PW, places_P)
        q_HPW, k_HPW, v_HPW = (qkv_P3HW[:, i].transpose(0, 1) for i in range(3))
        out_PHW = torch.empty(count, self.heads, self.width, dtype=qkv_PC.dtype, device=qkv_PC.device)
        start = 0
        for frames, rows, columns in batch.grid:
            chunk = slice(start, start + frames * rows * columns)
            q, k, v = (x[None, :, chunk] for x in (q_HPW, k_HPW, v_HPW))
            out_PHW[chunk] = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
            start = chunk.stop
        return out_PHW.flatten(1)
