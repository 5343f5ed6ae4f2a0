"""Typed configuration of dense Qwen3."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...configuration import Count, GroupedConfig, Width, layer_kinds, read_fields, refuse
from ...errors import ConfigError

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {"hidden_act": ("silu",), "partial_rotary_factor": (1, None)}
"""Fields with the only values that the model implements; a field left out is fine."""
WINDOW, FULL = "sliding_attention", "full_attention"


class Qwen3Config(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``."""

    intermediate_size: Width
    head_dim: Width | None = 128
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: Annotated[int, msgspec.Meta(ge=0)] = 28
    layer_types: tuple[str, ...] | None = None

    def kinds(self) -> tuple[str, ...]:
        """Of each layer's attention; without types, windows begin at layer ``max_window_layers``."""
        first = self.max_window_layers if self.use_sliding_window else self.num_hidden_layers
        default = lambda i: WINDOW if i >= first else FULL  # noqa: E731
        return layer_kinds(self.layer_types, self.num_hidden_layers, (FULL, WINDOW), default, "")

    def window(self, layer: int) -> int:
        """Tokens that a layer attends to; 0 for all."""
        return (self.sliding_window or 0) if self.kinds()[layer] == WINDOW else 0


def parse_config(raw: Mapping[str, Any]) -> Qwen3Config:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, ONLY, "")
    config = read_fields(Qwen3Config, raw, raw, "", theta=10000.0)
    if WINDOW in config.kinds() and not (config.use_sliding_window and config.sliding_window):
        raise ConfigError(f"config.json: layer_types holds {WINDOW!r}, but use_sliding_window or sliding_window is off")
    return config
