"""EAGLE3 (arXiv 2503.01840) with latent attention, for DeepSeek V3 and Kimi."""

from typing import Final

from ..drafts.config import check_target
from ..drafts.weights import SHARED
from ..family import Family
from .config import Eagle3MLAConfig, parse_config
from .model import Eagle3MLA, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("Eagle3DeepseekV2ForCausalLM", "Eagle3DeepseekV3ForCausalLM"),
    config=Eagle3MLAConfig,
    parse_config=parse_config,
    model=Eagle3MLA,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
    shared=SHARED,
    check_target=check_target,
)

__all__ = ["FAMILY", "Eagle3MLA", "Eagle3MLAConfig", "checkpoint_table", "parse_config"]
