"""Llama 3 (arXiv 2407.21783), and every checkpoint of its architecture: the plain baseline."""

from typing import Final

from ..family import Family
from .config import LlamaConfig, parse_config
from .model import Llama, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("LlamaForCausalLM",),
    config=LlamaConfig,
    parse_config=parse_config,
    model=Llama,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "Llama", "LlamaConfig", "checkpoint_table", "parse_config"]
