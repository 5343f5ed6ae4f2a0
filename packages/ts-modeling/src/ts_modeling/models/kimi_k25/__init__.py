"""Kimi K2.5's text model (a DeepSeek V3): multi-head latent attention, mixture of experts with a shared expert."""

from typing import Final

from ..family import Family, VisionPart
from . import mtp
from .config import KimiK25Config, parse_config, with_vision
from .model import KimiK25, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("KimiK25ForConditionalGeneration", "DeepseekV3ForCausalLM"),
    config=KimiK25Config,
    parse_config=parse_config,
    model=KimiK25,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
    vision=VisionPart(configure=with_vision, shape=lambda config: config.vision, tower=lambda model: model.vision),
    mtp=mtp.FAMILY,
)

__all__ = ["FAMILY", "KimiK25", "KimiK25Config", "checkpoint_table", "parse_config"]
