"""Parts of a decoder's layer from its configuration, for checkpoints with the usual names."""

from collections.abc import Iterable
from typing import Any

import torch

from ..configuration import DecoderConfig, GroupedConfig
from ..kv import KvSpec, group_layers
from ..layers import MLP, AttentionShape, MoEShape, kv_group
from ..placement import Dim, Mesh


def attention_shape(
    config: GroupedConfig, layer: int, *, layers: str = "model.layers", **traits: Any
) -> AttentionShape:
    """Sizes and formats of one layer's attention, ``layers`` what they are called; ``traits`` are further fields of the
    shape."""
    name = f"{layers}.{layer}.self_attn"
    return AttentionShape(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_width,
        eps=config.rms_norm_eps,
        schemes={"qkv": config.format_of(name, "q_proj", "k_proj", "v_proj"), "o": config.format_of(name, "o_proj")},
        **traits,
    )


def dense_mlp(config: DecoderConfig, layer: int, intermediate: int, mesh: Mesh, *, layers: str = "model.layers") -> MLP:
    """A layer's gated MLP."""
    name = f"{layers}.{layer}.mlp"
    gate_up, down = config.format_of(name, "gate_proj", "up_proj"), config.format_of(name, "down_proj")
    hidden = Dim("hidden", config.hidden_size)
    return MLP(hidden, intermediate, mesh, axis="dense_tp", scheme=gate_up, down_scheme=down)


def expert_shape(
    config: DecoderConfig,
    name: str,
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    **sizes: Any,
) -> MoEShape:
    """Sizes, routing and formats of a mixture whose experts are called ``name.0`` and so on."""
    gate, up, down = matrices
    stem = f"{name}.0"
    gate_up, last = config.format_of(stem, gate, up), config.format_of(stem, down)
    return MoEShape(hidden=config.hidden_size, scheme=gate_up, down_scheme=last, **sizes)


def grouped_kv(shapes: Iterable[AttentionShape], mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """The cache of layers with grouped-query attention alone."""
    return group_layers([kv_group(shape, layer, mesh, dtype) for layer, shape in enumerate(shapes)])
