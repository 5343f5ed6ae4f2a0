"""MiniMax M2: sigmoid routing, partial rotary, norms of queries and keys over the full width."""

from typing import Final

from ..family import Family
from .config import MiniMaxM2Config, parse_config
from .model import MiniMaxM2, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("MiniMaxM2ForCausalLM",),
    config=MiniMaxM2Config,
    parse_config=parse_config,
    model=MiniMaxM2,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "MiniMaxM2", "MiniMaxM2Config", "checkpoint_table", "parse_config"]
