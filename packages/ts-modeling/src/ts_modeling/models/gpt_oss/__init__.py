"""GPT-OSS (arXiv 2508.10925): attention sinks, alternating windows, experts with biases and a clamped SwiGLU."""

from typing import Final

from ..family import Family
from .config import GptOssConfig, parse_config
from .model import GptOss, kv_spec
from .weights import checkpoint_table

FAMILY: Final = Family(
    architectures=("GptOssForCausalLM",),
    config=GptOssConfig,
    parse_config=parse_config,
    model=GptOss,
    checkpoint_table=checkpoint_table,
    kv_spec=kv_spec,
)

__all__ = ["FAMILY", "GptOss", "GptOssConfig", "checkpoint_table", "parse_config"]
