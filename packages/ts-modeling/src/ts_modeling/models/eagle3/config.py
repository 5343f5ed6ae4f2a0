"""Typed configuration of EAGLE3's heads in Llama's form."""

from collections.abc import Mapping
from typing import Any

from ...configuration import refuse
from ..drafts.config import DraftConfig, parse_draft


class Eagle3Config(DraftConfig, frozen=True, kw_only=True):
    """A head with grouped-query attention."""


def parse_config(raw: Mapping[str, Any]) -> Eagle3Config:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    refuse(raw, {"sliding_window": (None,)}, "")
    return parse_draft(Eagle3Config, raw)
