"""Typed configuration of GPT-OSS."""

from collections.abc import Mapping
from typing import Any, Final

from ...configuration import Count, GroupedConfig, Positive, Width, check_experts, layer_kinds, read_fields, refuse
from ...errors import ConfigError

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {"hidden_act": ("silu",), "partial_rotary_factor": (1, None)}
"""Fields with the only values that the model implements; a field left out is fine."""
WINDOW, FULL = "sliding_attention", "full_attention"


class GptOssConfig(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``."""

    intermediate_size: Width
    """Of one expert."""
    num_local_experts: Count
    num_experts_per_tok: Count
    head_dim: Width | None = 64
    attention_bias: bool = True
    sliding_window: Count | None = 128
    layer_types: tuple[str, ...] | None = None
    swiglu_alpha: Positive = 1.702
    swiglu_limit: Positive = 7.0

    def kinds(self) -> tuple[str, ...]:
        """Of each layer's attention; in turn, a window first, unless the file says otherwise."""
        default = lambda i: FULL if i % 2 else WINDOW  # noqa: E731
        return layer_kinds(self.layer_types, self.num_hidden_layers, (FULL, WINDOW), default, "")

    def window(self, layer: int) -> int:
        """Tokens that a layer attends to; 0 for all."""
        return (self.sliding_window or 0) if self.kinds()[layer] == WINDOW else 0


def parse_config(raw: Mapping[str, Any]) -> GptOssConfig:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, ONLY, "")
    if not (raw.get("rope_scaling") or raw.get("rope_parameters")):
        raise ConfigError("config.json: rope_scaling is missing; GPT-OSS was made with YaRN, so say which")
    config = read_fields(GptOssConfig, raw, raw, "", theta=150000.0)
    if WINDOW in config.kinds() and not config.sliding_window:
        raise ConfigError(f"config.json: layer_types holds {WINDOW!r}, but sliding_window is off")
    fields = ("num_local_experts", "num_experts_per_tok")
    check_experts(config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok, "", fields)
    return config
