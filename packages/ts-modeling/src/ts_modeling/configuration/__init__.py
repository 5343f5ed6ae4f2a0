"""What the models' configurations share: field types, rotary scaling, refusals by name."""

from .fields import (
    MOST_EXPERTS,
    Count,
    DecoderConfig,
    GroupedConfig,
    ModelConfig,
    Positive,
    Width,
    check_experts,
    layer_kinds,
    read_fields,
    read_part,
    refuse,
    text_part,
)
from .rope import parse_rope

__all__ = [
    "MOST_EXPERTS",
    "Count",
    "DecoderConfig",
    "GroupedConfig",
    "ModelConfig",
    "Positive",
    "Width",
    "check_experts",
    "layer_kinds",
    "parse_rope",
    "read_fields",
    "read_part",
    "refuse",
    "text_part",
]
