"""EAGLE3 (arXiv 2503.01840): draft heads that continue from hidden states of their target."""

from typing import Final

from ..family import Family
from .config import Eagle3Config, Eagle3MLAConfig, check_target, parse_llama, parse_mla
from .model import Eagle3, Eagle3MLA, grouped_kv_spec, latent_kv_spec
from .weights import SHARED, checkpoint_table

LLAMA: Final = Family(
    architectures=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"),
    config=Eagle3Config,
    parse_config=parse_llama,
    model=Eagle3,
    checkpoint_table=checkpoint_table,
    kv_spec=grouped_kv_spec,
    shared=SHARED,
    check_target=check_target,
)
MLA: Final = Family(
    architectures=("Eagle3DeepseekV2ForCausalLM", "Eagle3DeepseekV3ForCausalLM"),
    config=Eagle3MLAConfig,
    parse_config=parse_mla,
    model=Eagle3MLA,
    checkpoint_table=checkpoint_table,
    kv_spec=latent_kv_spec,
    shared=SHARED,
    check_target=check_target,
)

__all__ = ["LLAMA", "MLA", "Eagle3", "Eagle3Config", "Eagle3MLA", "Eagle3MLAConfig", "checkpoint_table"]
