"""Typed configuration of Llama."""

from collections.abc import Mapping
from typing import Any, Final

from ...configuration import GroupedConfig, Width, read_fields, refuse

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, None),
}
"""Fields with the only values that the model implements; a field left out is fine."""


class LlamaConfig(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``."""

    intermediate_size: Width


def parse_config(raw: Mapping[str, Any]) -> LlamaConfig:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, ONLY, "")
    return read_fields(LlamaConfig, raw, raw, "", theta=10000.0)
