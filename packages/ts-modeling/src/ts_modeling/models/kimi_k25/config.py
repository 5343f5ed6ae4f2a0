"""Typed configuration, read from ``config.json``; what this model does not implement is refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ...errors import ConfigError
from ...layers import Yarn
from ...quantization import Quantization, Scheme, parse_quantization, scheme_of

Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "rope_interleave": (True, None),
    "ep_size": (1, None),
}
"""Fields with the only values that the model implements; a field left out is fine."""
YARN_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "attention_factor": (None,),
    "truncate": (None, True),
    "partial_rotary_factor": (None, 1),
}
"""The same for fields of the rotary scaling; None as if left out."""
MODEL_TYPES: Final = ("deepseek_v3", "kimi_k2")
MOST_EXPERTS: Final = 1 << 17
"""In all layers together, five times those of Kimi K2.5: the table of tensors is made before a file is looked at."""


class KimiK25Config(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the text model; names follow ``config.json``, ``yarn`` and ``quantization`` are parsed from it."""

    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    hidden_size: Width
    intermediate_size: Width
    moe_intermediate_size: Width
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    num_attention_heads: Count
    first_k_dense_replace: Annotated[int, msgspec.Meta(ge=0)]
    n_routed_experts: Count
    n_shared_experts: Annotated[int, msgspec.Meta(ge=1, le=64)]
    num_experts_per_tok: Count
    n_group: Count = 1
    topk_group: Count = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: Positive
    q_lora_rank: Width | None = None
    kv_lora_rank: Width
    qk_nope_head_dim: Width
    qk_rope_head_dim: Annotated[int, msgspec.Meta(ge=2, le=1 << 16, multiple_of=2)]
    v_head_dim: Width
    rms_norm_eps: Positive
    rope_theta: Annotated[float, msgspec.Meta(gt=1, le=1e12)]
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]
    num_nextn_predict_layers: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    yarn: Yarn | None = None
    quantization: Quantization | None = None
    nested: bool = False
    """Whether this is the text part of a multimodal checkpoint, whose tensors have names with ``language_model.``."""

    @property
    def softmax_scale(self) -> float:
        """What query-key products are multiplied by, YaRN's magnitude included."""
        gain = self.yarn.softmax_gain if self.yarn else 1.0
        return float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * gain)

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
    nested = "text_config" in raw
    text = raw["text_config"] if nested else raw
    where = "text_config." if nested else ""
    if not isinstance(text, Mapping):
        raise ConfigError(f"config.json: text_config is a {type(text).__name__}; expected an object")
    if text.get("model_type", MODEL_TYPES[0]) not in MODEL_TYPES:
        raise ConfigError(
            f"config.json: {where}model_type {text['model_type']!r} is not supported; expected 'deepseek_v3'"
        )
    for name, allowed in ONLY.items():
        if name in text and text[name] not in allowed:
            raise ConfigError(f"config.json: {where}{name} = {text[name]!r} is not supported; only {allowed[0]!r} is")
    fields = {name: text[name] for name in KimiK25Config.__struct_fields__ if name in text and name not in _DERIVED}
    for name in ("n_group", "topk_group", "num_nextn_predict_layers"):
        if fields.get(name, 0) is None:
            del fields[name]
    rope = text.get("rope_parameters") or {}
    if isinstance(rope, Mapping) and "rope_theta" in rope:
        fields.setdefault("rope_theta", rope["rope_theta"])
    quantization = text.get("quantization_config", raw.get("quantization_config"))
    try:
        config = msgspec.convert(fields, KimiK25Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config.json: {where or 'the model'}: {error}".replace("`$.", "`")) from None
    config = msgspec.structs.replace(
        config,
        nested=nested,
        yarn=_parse_yarn(text.get("rope_scaling") or rope, where),
        quantization=parse_quantization(quantization),
    )
    _check_together(config, text, where)
    return config


_DERIVED: Final = frozenset({"yarn", "quantization", "nested"})


class _YarnFields(msgspec.Struct, frozen=True, kw_only=True):
    factor: Annotated[float, msgspec.Meta(ge=1, le=1e6)]
    original_max_position_embeddings: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    mscale_all_dim: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0


def _parse_yarn(raw: Any, where: str) -> Yarn | None:
    name = f"config.json: {where}rope_scaling"
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{name} is a {type(raw).__name__}; expected an object")
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise ConfigError(f"{name}.type {kind!r} is not supported; only 'yarn' is")
    for field, allowed in YARN_ONLY.items():
        if raw.get(field) not in allowed:
            raise ConfigError(f"{name}.{field} = {raw[field]!r} is not supported; leave it out")
    try:
        fields = msgspec.convert({k: v for k, v in raw.items() if v is not None}, _YarnFields)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
    return Yarn(
        factor=fields.factor,
        original_max_positions=fields.original_max_position_embeddings,
        beta_fast=fields.beta_fast,
        beta_slow=fields.beta_slow,
        mscale=fields.mscale,
        mscale_all_dim=fields.mscale_all_dim,
    )


def _check_together(config: KimiK25Config, text: Mapping[str, Any], where: str) -> None:
    """Fields that only make sense with one another."""
    experts, groups = config.n_routed_experts, config.n_group
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
        (config.topk_group <= groups, f"topk_group = {config.topk_group} exceeds n_group = {groups}"),
        (
            config.num_experts_per_tok <= config.topk_group * (experts // groups),
            f"num_experts_per_tok = {config.num_experts_per_tok} exceeds the experts that routing may choose from",
        ),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"config.json: {where}{message}")
