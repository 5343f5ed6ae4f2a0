"""MiniMax M2 for one device; the compiler places it on a mesh."""

import torch

from ...kv import KvSpec
from ...layers import AttentionShape, Experts, GroupedAttention, Mixture, RotaryTable, Router
from ...placement import Mesh
from ..decoder import Decoder, DecoderLayer
from ..parts import attention_shape, expert_shape, grouped_kv
from .config import MiniMaxM2Config

MATRICES = ("w1", "w3", "w2")
"""Gate, up and down of an expert."""


class MiniMaxM2(Decoder):
    """Attention with queries and keys normed over their full width; routed experts in every layer."""

    def __init__(
        self, config: MiniMaxM2Config, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        layers = (_layer(config, i, mesh, dtype, rotary) for i in range(config.num_hidden_layers))
        super().__init__(config, mesh, layers, dtype=dtype)


def _layer(config: MiniMaxM2Config, index: int, mesh: Mesh, dtype: torch.dtype, rotary: RotaryTable) -> DecoderLayer:
    shape = expert_shape(
        config,
        f"model.layers.{index}.block_sparse_moe.experts",
        MATRICES,
        experts=config.num_local_experts,
        intermediate=config.intermediate_size,
        top_k=config.num_experts_per_tok,
        normalize=True,
        names=("num_local_experts", "intermediate_size"),
    )
    attention = GroupedAttention(shape_of(config, index), mesh, rotary=rotary)
    return DecoderLayer(config, index, attention, Mixture(Router(shape), Experts(shape, mesh)), dtype=dtype)


def shape_of(config: MiniMaxM2Config, layer: int) -> AttentionShape:
    """Of one layer's attention."""
    return attention_shape(config, layer, qk_norm="width")


def kv_spec(config: MiniMaxM2Config, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of every layer."""
    return grouped_kv((shape_of(config, i) for i in range(config.num_hidden_layers)), mesh, dtype)
