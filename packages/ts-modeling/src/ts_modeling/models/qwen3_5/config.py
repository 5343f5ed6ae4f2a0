"""Typed configuration of Qwen 3.5 and 3.6: the text part, dense or a mixture of experts."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...configuration import (
    Count,
    GroupedConfig,
    Width,
    check_experts,
    layer_kinds,
    read_fields,
    refuse,
    text_part,
)
from ...errors import ConfigError, shown

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "attn_output_gate": (True,),
    "output_gate_type": ("swish",),
    "mamba_ssm_dtype": ("float32",),
    "mlp_only_layers": ([], None),
    "attention_bias": (False,),
}
"""Fields with the only values that the model implements; a field left out is fine."""
LINEAR, FULL = "linear_attention", "full_attention"


class Qwen35Config(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``; without ``num_experts`` every layer has a plain MLP."""

    intermediate_size: Width | None = None
    num_experts: Count | None = None
    num_experts_per_tok: Count = 8
    moe_intermediate_size: Width = 512
    shared_expert_intermediate_size: Width = 512
    head_dim: Width | None = 256
    linear_conv_kernel_dim: Annotated[int, msgspec.Meta(ge=2, le=64)] = 4
    linear_key_head_dim: Width = 128
    linear_value_head_dim: Width = 128
    linear_num_key_heads: Count = 16
    linear_num_value_heads: Count = 32
    layer_types: tuple[str, ...] | None = None
    full_attention_interval: Count = 4
    mtp_num_hidden_layers: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None

    def kinds(self) -> tuple[str, ...]:
        """Of each layer: a gated delta net, or attention, every fourth unless the file says otherwise."""
        default = lambda i: LINEAR if (i + 1) % self.full_attention_interval else FULL  # noqa: E731
        return layer_kinds(self.layer_types, self.num_hidden_layers, (FULL, LINEAR), default, "")


def parse_config(raw: Mapping[str, Any]) -> Qwen35Config:
    """Read the content of ``config.json``: a text model's, or a multimodal one's with ``text_config``.

    Raises ``ConfigError`` naming the field.
    """
    text, where = text_part(raw)
    refuse(text, ONLY, where)
    config = read_fields(Qwen35Config, raw, text, where, theta=10000.0, partial=0.25)
    tied = raw.get("tie_word_embeddings", config.tie_word_embeddings)  # the outer one says it for the whole model
    if type(tied) is not bool:
        raise ConfigError(f"config.json: tie_word_embeddings = {shown(tied)}; expected true or false")
    config = msgspec.structs.replace(config, tie_word_embeddings=tied)
    _check(config, where)
    return msgspec.structs.replace(config, inner="language_model." if where else "")


def _check(config: Qwen35Config, where: str) -> None:
    config.kinds()
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    if values % keys:
        raise ConfigError(
            f"config.json: {where}linear_num_key_heads = {keys} must divide linear_num_value_heads = {values}"
        )
    if config.num_experts is None and config.intermediate_size is None:
        raise ConfigError(f"config.json: {where}intermediate_size is missing, and so is num_experts")
    fields = ("num_experts", "num_experts_per_tok")
    if config.num_experts:
        check_experts(config.num_hidden_layers, config.num_experts, config.num_experts_per_tok, where, fields)
