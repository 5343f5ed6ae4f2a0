"""The layer for multi-token prediction of DeepSeek V3 and Kimi, as a draft for the model that it lies beside."""

from typing import Final

from ...family import Family
from .config import KimiK25MTPConfig, parse_config
from .model import KimiK25MTP, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=(),
    config=KimiK25MTPConfig,
    parse_config=parse_config,
    model=KimiK25MTP,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "KimiK25MTP", "KimiK25MTPConfig", "checkpoint_table", "parse_config"]
