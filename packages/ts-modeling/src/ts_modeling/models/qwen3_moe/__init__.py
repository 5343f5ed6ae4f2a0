"""Qwen3 (arXiv 2505.09388), mixture of experts: softmax routing, no shared expert."""

from typing import Final

from ..family import Family
from .config import Qwen3MoeConfig, parse_config
from .model import Qwen3Moe, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("Qwen3MoeForCausalLM",),
    config=Qwen3MoeConfig,
    parse_config=parse_config,
    model=Qwen3Moe,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "Qwen3Moe", "Qwen3MoeConfig", "checkpoint_table", "parse_config"]
