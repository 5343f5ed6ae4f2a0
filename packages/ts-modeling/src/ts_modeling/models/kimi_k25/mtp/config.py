"""Typed configuration of the layer, which is its target's."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ....errors import ConfigError
from ..config import KimiK25Config
from ..config import parse_config as parse_target


class KimiK25MTPConfig(KimiK25Config, frozen=True, kw_only=True):
    """``num_hidden_layers`` counts the target's layers; the draft is the one after them."""


def parse_config(raw: Mapping[str, Any]) -> KimiK25MTPConfig:
    """Read the content of the target's ``config.json``. Raises ``ConfigError`` naming the field."""
    target = parse_target(raw)
    if target.num_nextn_predict_layers != 1:
        raise ConfigError(
            f"config.json: num_nextn_predict_layers = {target.num_nextn_predict_layers}: only a checkpoint with 1 has "
            "a draft 'mtp'"
        )
    return KimiK25MTPConfig(**msgspec.structs.asdict(target))
