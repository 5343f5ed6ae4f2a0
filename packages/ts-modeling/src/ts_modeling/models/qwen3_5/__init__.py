"""Qwen 3.5 and 3.6, the text part: gated delta nets with gated attention in every fourth layer, dense or a mixture."""

from typing import Final

from ..family import Family
from . import mtp
from .config import Qwen35Config, parse_config
from .model import Qwen35, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=(
        "Qwen3_5ForCausalLM",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
    ),
    config=Qwen35Config,
    parse_config=parse_config,
    model=Qwen35,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
    mtp=mtp.FAMILY,
)

__all__ = ["FAMILY", "Qwen35", "Qwen35Config", "checkpoint_table", "parse_config"]
