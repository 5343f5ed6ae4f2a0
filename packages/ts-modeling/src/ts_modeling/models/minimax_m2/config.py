"""Typed configuration of MiniMax M2."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...configuration import Count, GroupedConfig, Width, check_experts, read_fields, read_part, refuse
from ...errors import ConfigError

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_layer",),
    "use_routing_bias": (True,),
    "shared_intermediate_size": (0, None),
    "sliding_window": (None,),
    "attention_bias": (False,),
}
"""Fields with the only values that the model implements; a field left out is fine."""


class MiniMaxM2Config(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``."""

    intermediate_size: Width
    """Of one expert."""
    num_local_experts: Count
    num_experts_per_tok: Count
    num_mtp_modules: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    head_dim: Width | None = 128

    @property
    def extra_layers(self) -> range:
        """Layers for multi-token prediction, which follow the others in the checkpoint."""
        return range(self.num_hidden_layers, self.num_hidden_layers + (self.num_mtp_modules or 0))


class _Turning(msgspec.Struct, frozen=True, kw_only=True):
    """What says which columns of a head turn, and how layers attend."""

    hidden_size: Width
    num_attention_heads: Count
    head_dim: Width | None = 128
    rotary_dim: Width | None = None
    attn_type_list: tuple[int, ...] | None = None

    def part(self) -> float:
        """Part of a head that turns. Raises ``ConfigError``."""
        width = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.rotary_dim and self.rotary_dim > width:
            raise ConfigError(f"config.json: rotary_dim = {self.rotary_dim} exceeds the {width} columns of a head")
        return self.rotary_dim / width if self.rotary_dim else 1.0


def parse_config(raw: Mapping[str, Any]) -> MiniMaxM2Config:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, ONLY, "")
    turning = read_part(_Turning, raw)
    if any(kind != 1 for kind in turning.attn_type_list or ()):
        raise ConfigError("config.json: attn_type_list holds another kind than 1; only full attention is supported")
    config = read_fields(MiniMaxM2Config, raw, raw, "", theta=5000000.0, partial=turning.part())
    fields = ("num_local_experts", "num_experts_per_tok")
    check_experts(config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok, "", fields)
    return config
