"""Qwen3's mixture of experts for one device; the compiler places it on a mesh."""

import torch
from torch import nn

from ...kv import KvSpec
from ...layers import AttentionShape, Experts, GroupedAttention, Mixture, RotaryTable, SoftmaxRouter
from ...placement import Mesh
from ..decoder import Decoder, DecoderLayer
from ..parts import attention_shape, dense_mlp, expert_shape, grouped_kv
from .config import Qwen3MoeConfig


class Qwen3Moe(Decoder):
    """Attention with normed heads; routed experts, or a gated MLP in some layers."""

    def __init__(
        self, config: Qwen3MoeConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        layers = (_layer(config, i, mesh, dtype, rotary) for i in range(config.num_hidden_layers))
        super().__init__(config, mesh, layers, dtype=dtype)


def _layer(config: Qwen3MoeConfig, index: int, mesh: Mesh, dtype: torch.dtype, rotary: RotaryTable) -> DecoderLayer:
    attention = GroupedAttention(shape_of(config, index), mesh, rotary=rotary)
    mlp: nn.Module
    if config.is_dense(index):
        mlp = dense_mlp(config, index, config.intermediate_size, mesh)
    else:
        mlp = mixture(config, index, mesh)
    return DecoderLayer(config, index, attention, mlp, dtype=dtype)


def mixture(config: Qwen3MoeConfig, layer: int, mesh: Mesh) -> Mixture:
    """One layer's routed experts."""
    shape = expert_shape(
        config,
        f"model.layers.{layer}.mlp.experts",
        experts=config.num_experts,
        intermediate=config.moe_intermediate_size,
        top_k=config.num_experts_per_tok,
        names=("num_experts", "moe_intermediate_size"),
        normalize=config.norm_topk_prob,
    )
    return Mixture(SoftmaxRouter(shape), Experts(shape, mesh))


def shape_of(config: Qwen3MoeConfig, layer: int) -> AttentionShape:
    """Of one layer's attention."""
    bias, window = config.attention_bias, config.window
    return attention_shape(config, layer, bias=bias, out_bias=bias, qk_norm="head", window=window)


def kv_spec(config: Qwen3MoeConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of every layer."""
    return grouped_kv((shape_of(config, i) for i in range(config.num_hidden_layers)), mesh, dtype)
