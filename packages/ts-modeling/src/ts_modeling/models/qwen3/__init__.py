"""Qwen3 (arXiv 2505.09388), dense: Llama with norms on the heads of queries and keys."""

from typing import Final

from ..family import Family
from .config import Qwen3Config, parse_config
from .model import Qwen3, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("Qwen3ForCausalLM",),
    config=Qwen3Config,
    parse_config=parse_config,
    model=Qwen3,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "Qwen3", "Qwen3Config", "checkpoint_table", "parse_config"]
