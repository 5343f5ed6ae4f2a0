"""Llama 3 for one device; the compiler places it on a mesh."""

import torch

from ...kv import KvSpec
from ...layers import AttentionShape, GroupedAttention, RotaryTable
from ...placement import Mesh
from ..decoder import Decoder, DecoderLayer
from ..parts import attention_shape, dense_mlp, grouped_kv
from .config import LlamaConfig


class Llama(Decoder):
    """Grouped-query attention and a gated MLP in every layer."""

    def __init__(
        self, config: LlamaConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        layers = (_layer(config, i, mesh, dtype, rotary) for i in range(config.num_hidden_layers))
        super().__init__(config, mesh, layers, dtype=dtype)


def _layer(config: LlamaConfig, index: int, mesh: Mesh, dtype: torch.dtype, rotary: RotaryTable) -> DecoderLayer:
    attention = GroupedAttention(shape_of(config, index), mesh, rotary=rotary)
    return DecoderLayer(config, index, attention, dense_mlp(config, index, config.intermediate_size, mesh), dtype=dtype)


def shape_of(config: LlamaConfig, layer: int) -> AttentionShape:
    """Of one layer's attention."""
    return attention_shape(config, layer, bias=config.attention_bias, out_bias=config.attention_bias)


def kv_spec(config: LlamaConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of every layer."""
    return grouped_kv((shape_of(config, i) for i in range(config.num_hidden_layers)), mesh, dtype)
