"""MoonViT and its projector for one device: patches of images in, rows for the text model out.

Legend: P patches, D width of the tower, M merged tokens, V width of the text model.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....layers import (
    AnnotatedModel,
    BiasedLinear,
    GeluMLP,
    GridRotary,
    JoinRows,
    LayerNorm,
    PackedAttention,
    PatchEmbed,
    PoolPatches,
)
from ....placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from .config import ROPE_THETA, VisionConfig

EPS = 1e-5
"""Of the tower's norms, which the configuration does not name."""


class MoonViT(AnnotatedModel):
    """A ``VisionBatch`` in, one row of the text model's width a merged token out."""

    inputs: ClassVar[Mapping[str, Spec]] = {}

    def __init__(self, config: VisionConfig, text_hidden: int, mesh: Mesh, *, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, pixels = Dim("vision_hidden", config.hidden), Dim("pixels", config.pixels)
        rows, columns = config.merge
        merged = Dim("merged_patches", config.hidden * rows * columns)
        self.embed = PatchEmbed(
            pixels,
            hidden,
            patch=config.patch,
            grid=(config.grid_rows, config.grid_columns),
            frames=config.frames,
            dtype=dtype,
        )
        self.rotary = GridRotary(config.head_width, ROPE_THETA)
        self.blocks = nn.ModuleList(Block(config, mesh, dtype=dtype) for _ in range(config.layers))
        self.norm = LayerNorm(hidden, EPS, dtype)
        self.pool = PoolPatches(hidden, config.merge)
        self.pre_norm = LayerNorm(hidden, config.projector_eps, dtype)
        self.join = JoinRows(hidden, merged)
        text = Dim("hidden", text_hidden)
        self.projector = GeluMLP(merged, config.hidden * rows * columns, text, mesh, axis="attn_tp", tanh=False)
        self.inputs = {"batch.patches": Spec(TOKENS, pixels, attn_dp=Shard("tokens"))}  # type: ignore[misc]
        self.gives = Spec(SAMPLES, text, attn_tp=Replicate())

    def forward(self, batch: Any) -> Tensor:
        """Rows of all images in order, [M, V]; each image's from left to right, then down."""
        x_PD, turns = self.embed(batch.patches, batch), self.rotary(batch)
        for block in self.blocks:
            x_PD = block(x_PD, turns, batch)
        rows: Tensor = self.projector(self.join(self.pre_norm(self.pool(self.norm(x_PD), batch))))
        return rows


class Block(nn.Module):
    """Attention within each image and MLP, each normed before and added to the residual stream."""

    def __init__(self, config: VisionConfig, mesh: Mesh, *, dtype: torch.dtype) -> None:
        super().__init__()
        hidden = Dim("vision_hidden", config.hidden)
        fused, heads = Dim("vision_qkv", 3 * config.hidden), Dim("vision_heads", config.hidden)
        self.norm0, self.norm1 = LayerNorm(hidden, EPS, dtype), LayerNorm(hidden, EPS, dtype)
        self.attend = PackedAttention(fused, heads, config.heads, mesh)
        self.qkv = BiasedLinear(hidden, fused, mesh, columns="attn_tp", stacked=3)
        self.out = BiasedLinear(heads, hidden, mesh, rows="attn_tp")
        self.mlp = GeluMLP(hidden, config.intermediate, hidden, mesh, axis="dense_tp", tanh=True)

    def forward(self, x_PD: Tensor, turns: Tensor, batch: Any) -> Tensor:
        """[P, D] -> [P, D]."""
        x_PD = x_PD + self.out(self.attend(self.qkv(self.norm0(x_PD)), turns, batch))
        out: Tensor = x_PD + self.mlp(self.norm1(x_PD))
        return out
