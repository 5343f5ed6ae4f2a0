"""Typed configuration of the layer, which is its target's."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ....configuration import refuse, text_part
from ....errors import ConfigError
from ..config import Qwen35Config
from ..config import parse_config as parse_target


class Qwen35MTPConfig(Qwen35Config, frozen=True, kw_only=True):
    """``num_hidden_layers`` counts the target's layers."""


def parse_config(raw: Mapping[str, Any]) -> Qwen35MTPConfig:
    """Read the content of the target's ``config.json``. Raises ``ConfigError`` naming the field."""
    target = parse_target(raw)
    text, where = text_part(raw)
    refuse(text, {"mtp_use_dedicated_embeddings": (False, None)}, where)
    if target.mtp_num_hidden_layers != 1:
        raise ConfigError(
            f"config.json: {where}mtp_num_hidden_layers = {target.mtp_num_hidden_layers}: only a checkpoint with 1 has "
            "a draft 'mtp'"
        )
    return Qwen35MTPConfig(**msgspec.structs.asdict(target))
