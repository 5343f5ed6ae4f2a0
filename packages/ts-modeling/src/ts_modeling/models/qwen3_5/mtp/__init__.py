"""Qwen 3.5's and 3.6's layer for multi-token prediction, as a draft for the model that it lies beside."""

from typing import Final

from ...family import Family
from .config import Qwen35MTPConfig, parse_config
from .model import Qwen35MTP, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=(),
    config=Qwen35MTPConfig,
    parse_config=parse_config,
    model=Qwen35MTP,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "Qwen35MTP", "Qwen35MTPConfig", "checkpoint_table", "parse_config"]
