"""Qwen 3.5 and 3.6 (text) for one device; the compiler places it on a mesh."""

import torch
from torch import nn

from ...kv import CacheGroup, KvSpec, group_layers
from ...layers import (
    MLP,
    AttentionShape,
    DeltaShape,
    Experts,
    GatedDeltaNet,
    GatedShared,
    GroupedAttention,
    Mixture,
    RotaryTable,
    SoftmaxRouter,
    kv_group,
    state_group,
)
from ...placement import Dim, Mesh
from ..decoder import Decoder, DecoderLayer
from ..parts import attention_shape, dense_mlp, expert_shape
from .config import FULL, Qwen35Config

OFFSET = 1.0
"""Added to the gains that norms store."""
LAYERS = "model.layers"
"""What the layers are called, other than those for multi-token prediction."""


class Qwen35(Decoder):
    """Gated delta nets, and gated attention in some layers; a gated MLP, or experts with a gated shared one."""

    def __init__(
        self, config: Qwen35Config, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        layers = (_layer(config, i, mesh, dtype, rotary) for i in range(config.num_hidden_layers))
        super().__init__(config, mesh, layers, dtype=dtype, offset=OFFSET)


def _layer(config: Qwen35Config, index: int, mesh: Mesh, dtype: torch.dtype, rotary: RotaryTable) -> DecoderLayer:
    mixer: nn.Module
    if config.kinds()[index] == FULL:
        mixer = GroupedAttention(full_shape(config, index), mesh, rotary=rotary)
    else:
        mixer = GatedDeltaNet(delta_shape(config, index), mesh)
    return DecoderLayer(config, index, mixer, mlp_of(config, index, mesh), dtype=dtype, offset=OFFSET)


def mlp_of(config: Qwen35Config, layer: int, mesh: Mesh, *, layers: str = LAYERS) -> MLP | Mixture:
    """One layer's MLP, dense or a mixture."""
    if config.num_experts:
        return mixture(config, layer, mesh, layers=layers)
    assert config.intermediate_size is not None
    return dense_mlp(config, layer, config.intermediate_size, mesh, layers=layers)


def mixture(config: Qwen35Config, layer: int, mesh: Mesh, *, layers: str = LAYERS) -> Mixture:
    """One layer's routed experts and the shared one, whose output has a gate."""
    assert config.num_experts is not None
    name, hidden = f"{layers}.{layer}.mlp", Dim("hidden", config.hidden_size)
    shape = expert_shape(
        config,
        f"{name}.experts",
        experts=config.num_experts,
        intermediate=config.moe_intermediate_size,
        top_k=config.num_experts_per_tok,
        names=("num_experts", "moe_intermediate_size"),
        normalize=True,
    )
    shared = MLP(
        hidden,
        config.shared_expert_intermediate_size,
        mesh,
        axis="dense_tp",
        scheme=config.format_of(f"{name}.shared_expert", "gate_proj", "up_proj"),
        down_scheme=config.format_of(f"{name}.shared_expert", "down_proj"),
    )
    return Mixture(SoftmaxRouter(shape), Experts(shape, mesh), GatedShared(shared, hidden, axis="dense_tp"))


def full_shape(config: Qwen35Config, layer: int, *, layers: str = LAYERS) -> AttentionShape:
    """Of one layer with full attention."""
    return attention_shape(config, layer, layers=layers, qk_norm="head", norm_offset=OFFSET, gated=True)


def delta_shape(config: Qwen35Config, layer: int) -> DeltaShape:
    """Of one layer with a gated delta net."""
    name = f"model.layers.{layer}.linear_attn"
    parts = {"qkvz": ("in_proj_qkv", "in_proj_z"), "ba": ("in_proj_b", "in_proj_a"), "o": ("out_proj",)}
    return DeltaShape(
        hidden=config.hidden_size,
        key_heads=config.linear_num_key_heads,
        value_heads=config.linear_num_value_heads,
        key_dim=config.linear_key_head_dim,
        value_dim=config.linear_value_head_dim,
        kernel=config.linear_conv_kernel_dim,
        eps=config.rms_norm_eps,
        schemes={part: config.format_of(name, *linears) for part, linears in parts.items()},
    )


def kv_spec(config: Qwen35Config, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of the layers with attention, a state in the others."""

    def group(layer: int, kind: str) -> CacheGroup:
        if kind == FULL:
            return kv_group(full_shape(config, layer), layer, mesh, dtype)
        return state_group(delta_shape(config, layer), layer, mesh)

    return group_layers([group(layer, kind) for layer, kind in enumerate(config.kinds())])
