"""EAGLE3's heads in Llama's form for one device; the compiler places them on a mesh."""

import torch

from ...kv import KvSpec, group_layers
from ...layers import AttentionShape, GroupedAttention, RotaryTable, kv_group
from ...placement import Mesh
from ..drafts.model import LAYER, Draft
from .config import Eagle3Config


class Eagle3(Draft):
    """A draft whose layer has grouped-query attention."""

    def __init__(
        self, config: Eagle3Config, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        super().__init__(config, GroupedAttention(shape_of(config), mesh, rotary=rotary), mesh, dtype=dtype)


def shape_of(config: Eagle3Config) -> AttentionShape:
    """Of the layer's attention."""
    name = f"{LAYER}.self_attn"
    return AttentionShape(
        hidden=config.hidden_size,
        inputs=2 * config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_width,
        eps=config.rms_norm_eps,
        schemes={"qkv": config.format_of(name, "q_proj", "k_proj", "v_proj"), "o": config.format_of(name, "o_proj")},
    )


def kv_spec(config: Eagle3Config, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of the one layer."""
    return group_layers([kv_group(shape_of(config), 0, mesh, dtype)])
