"""Typed configuration of Qwen3's mixture of experts."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...configuration import Count, GroupedConfig, Width, check_experts, read_fields, refuse

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {"hidden_act": ("silu",), "partial_rotary_factor": (1, None)}
"""Fields with the only values that the model implements; a field left out is fine."""


class Qwen3MoeConfig(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``."""

    intermediate_size: Width
    moe_intermediate_size: Width
    num_experts: Count
    num_experts_per_tok: Count
    norm_topk_prob: bool = False
    decoder_sparse_step: Annotated[int, msgspec.Meta(ge=1)] = 1
    mlp_only_layers: tuple[int, ...] | None = None
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096

    @property
    def window(self) -> int:
        """Tokens that every layer attends to; 0 for all."""
        return (self.sliding_window or 0) if self.use_sliding_window else 0

    def is_dense(self, layer: int) -> bool:
        """Whether ``layer`` has a plain MLP."""
        return layer in (self.mlp_only_layers or ()) or (layer + 1) % self.decoder_sparse_step != 0


def parse_config(raw: Mapping[str, Any]) -> Qwen3MoeConfig:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, ONLY, "")
    names = {"num_experts": "num_experts" if "num_experts" in raw else "num_local_experts"}
    config = read_fields(Qwen3MoeConfig, raw, raw, "", theta=10000.0, names=names)
    fields = (names["num_experts"], "num_experts_per_tok")
    check_experts(config.num_hidden_layers, config.num_experts, config.num_experts_per_tok, "", fields)
    return config
