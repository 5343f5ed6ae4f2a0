"""Typed configuration, read from ``config.json``; what this model does not implement is refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...configuration import MOST_EXPERTS, Count, DecoderConfig, Positive, Width, read_fields, refuse, text_part
from ...errors import ConfigError, shown
from ...layers import Yarn
from ...quantization import Scheme, scheme_of
from .vision import VisionConfig, parse_vision

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "rope_interleave": (True,),
    "ep_size": (1, None),
    "partial_rotary_factor": (1, None),
}
"""Fields with the only values that the model implements; a field left out is fine."""
MODEL_TYPES: Final = ("deepseek_v3", "kimi_k2")


class KimiK25Config(DecoderConfig, frozen=True, kw_only=True):
    """Shape of the text model; names follow ``config.json``."""

    intermediate_size: Width
    moe_intermediate_size: Width
    first_k_dense_replace: Annotated[int, msgspec.Meta(ge=0)]
    n_routed_experts: Count
    n_shared_experts: Annotated[int, msgspec.Meta(ge=1, le=64)]
    num_experts_per_tok: Count
    n_group: Count | None
    """Must be given, as programs differ in what they take it for; None is one group. So must the next."""
    topk_group: Count | None
    norm_topk_prob: bool = True
    routed_scaling_factor: Positive
    q_lora_rank: Width | None = None
    kv_lora_rank: Width
    qk_nope_head_dim: Width
    qk_rope_head_dim: Annotated[int, msgspec.Meta(ge=2, le=1 << 16, multiple_of=2)]
    v_head_dim: Width
    num_nextn_predict_layers: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    vision: VisionConfig | None = None
    """Only where the tower was asked for."""

    @property
    def softmax_scale(self) -> float:
        """What query-key products are multiplied by, YaRN's magnitude included."""
        scaling = self.rope.scaling
        gain = scaling.softmax_gain if isinstance(scaling, Yarn) else 1.0
        return float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * gain)

    @property
    def groups(self) -> tuple[int, int]:
        """Groups of experts, and how many of them a token may choose from."""
        return self.n_group or 1, self.topk_group or 1

    @property
    def extra_layers(self) -> range:
        """Layers for multi-token prediction, which follow the others in the checkpoint."""
        return range(self.num_hidden_layers, self.num_hidden_layers + (self.num_nextn_predict_layers or 0))

    def is_dense(self, layer: int) -> bool:
        """Whether ``layer`` has a plain MLP."""
        return layer < self.first_k_dense_replace

    def scheme(self, layer: int, *modules: str) -> Scheme:
        """How the Linear modules of a layer (``mlp.experts.0.gate_proj``), stacked into one, are stored."""
        return scheme_of(self.quantization, *(f"model.layers.{layer}.{module}" for module in modules))


def parse_config(raw: Mapping[str, Any]) -> KimiK25Config:
    """Read the content of ``config.json``: Kimi K2.5's with ``text_config``, or a plain ``deepseek_v3``.

    Raises ``ConfigError`` naming the field.
    """
    text, where = text_part(raw)
    if text.get("model_type", MODEL_TYPES[0]) not in MODEL_TYPES:
        raise ConfigError(
            f"config.json: {where}model_type {shown(text['model_type'])} is not supported; expected 'deepseek_v3'"
        )
    refuse(text, ONLY, where)
    config = read_fields(KimiK25Config, raw, text, where)
    config = msgspec.structs.replace(config, prefix="language_model." if where else "")
    _check_together(config, text, where)
    return config


def with_vision(config: KimiK25Config, raw: Mapping[str, Any]) -> KimiK25Config:
    """``config`` with the vision tower that ``config.json`` describes. Raises ``ConfigError`` naming the field."""
    return msgspec.structs.replace(config, vision=parse_vision(raw))


def _check_together(config: KimiK25Config, text: Mapping[str, Any], where: str) -> None:
    """Fields that only make sense with one another."""
    experts, groups = config.n_routed_experts, config.groups[0]
    checks = (
        (
            text.get("num_key_value_heads") in (None, config.num_attention_heads),
            "num_key_value_heads must equal num_attention_heads",
        ),
        (
            config.num_hidden_layers * experts <= MOST_EXPERTS,
            f"num_hidden_layers = {config.num_hidden_layers} with n_routed_experts = {experts} are more experts than "
            f"{MOST_EXPERTS}",
        ),
        (experts % groups == 0, f"n_group = {groups} must divide n_routed_experts = {experts}"),
        (groups == 1 or experts // groups >= 2, "n_group leaves fewer than 2 experts a group"),
        (config.groups[1] <= groups, f"topk_group = {config.groups[1]} exceeds n_group = {groups}"),
        (
            config.num_experts_per_tok <= config.groups[1] * (experts // groups),
            f"num_experts_per_tok = {config.num_experts_per_tok} exceeds the {config.groups[1] * (experts // groups)} "
            f"experts of topk_group = {config.groups[1]} groups, which a token may choose from",
        ),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"config.json: {where}{message}")
