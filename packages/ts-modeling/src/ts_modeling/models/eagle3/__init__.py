"""EAGLE3 (arXiv 2503.01840) in Llama's form: a draft head that continues from hidden states of its target."""

from typing import Final

from ..drafts.config import check_target
from ..drafts.weights import SHARED
from ..family import Family
from .config import Eagle3Config, parse_config
from .model import Eagle3, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"),
    config=Eagle3Config,
    parse_config=parse_config,
    model=Eagle3,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
    shared=SHARED,
    check_target=check_target,
)

__all__ = ["FAMILY", "Eagle3", "Eagle3Config", "checkpoint_table", "parse_config"]
