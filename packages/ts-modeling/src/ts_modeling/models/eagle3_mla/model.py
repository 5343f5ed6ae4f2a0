"""EAGLE3's heads with latent attention for one device; the compiler places them on a mesh."""

import torch

from ...kv import CacheGroup, KvSpec
from ...layers import MLAAttention, MLAShape, RotaryTable
from ...placement import Mesh
from ..drafts.model import LAYER, Draft
from .config import Eagle3MLAConfig


class Eagle3MLA(Draft):
    """A draft whose layer has latent attention."""

    def __init__(
        self, config: Eagle3MLAConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.qk_rope_head_dim, positions, config.rope, device)
        attention = MLAAttention(shape_of(config), mesh, rotary=rotary, dtype=dtype)
        super().__init__(config, attention, mesh, dtype=dtype)


def shape_of(config: Eagle3MLAConfig) -> MLAShape:
    """Of the layer's attention; latents are normed with ``rms_norm_eps``, as programs that serve such heads do."""
    first, second = (("q_a_proj",), "q_b_proj") if config.q_lora_rank else ((), "q_proj")
    stacked = {"qkv_a": (*first, "kv_a_proj_with_mqa"), "q": (second,), "kv_b": ("kv_b_proj",), "o": ("o_proj",)}
    return MLAShape(
        hidden=config.hidden_size,
        inputs=2 * config.hidden_size,
        heads=config.num_attention_heads,
        q_latent=config.q_lora_rank,
        kv_latent=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        latent_eps=config.rms_norm_eps,
        scale=config.softmax_scale,
        schemes={part: config.format_of(f"{LAYER}.self_attn", *names) for part, names in stacked.items()},
    )


def kv_spec(config: Eagle3MLAConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """One latent and one rotary key of the one layer."""
    width = config.kv_lora_rank + config.qk_rope_head_dim
    return KvSpec((CacheGroup(kind="full", layers=(0,), shapes=((width,),), dtype=dtype),))
