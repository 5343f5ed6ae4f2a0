"""What configurations of EAGLE3's draft heads share.

Fields are those that SpecForge, ModelOpt and TorchSpec write; what changes numbers and is not implemented is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec

from ...configuration import Count, GroupedConfig, ModelConfig, Width, read_fields, refuse
from ...errors import ConfigError, shown

ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "num_hidden_layers": (1,),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "bias": (False, None),
    "partial_rotary_factor": (1, None),
    "use_sliding_window": (False, None),
    "fc_norm": (False, None),
    "use_aux_norm": (False, None),
    "norm_output": (False, None),
    "logit_scale": (1, None),
    "rope_interleave": (True,),
    "eagle_aux_hidden_state_layer_ids": (None,),
}
"""Fields with the only values that the model implements; a field left out is fine. Layers of features stand in
``eagle_config``: at the top, programs disagree on what the numbers count."""
EAGLE: Final[Mapping[str, tuple[Any, ...]]] = {
    "use_aux_hidden_state": (True, None),
    "use_input_layernorm_in_first_layer": (True, None),
    "use_last_layernorm": (True, None),
    "use_mtp_layernorm": (False, None),
    "next_layer_regular": (True, None),
    "parallel_draft_step": (1, None),
}
"""The same for fields of ``eagle_config``."""
LAYERS: Final = "eagle_aux_hidden_state_layer_ids"
Index = Annotated[int, msgspec.Meta(ge=0, le=4096)]


class DraftConfig(GroupedConfig, frozen=True, kw_only=True):
    """Names follow ``config.json``; ``vocab_size`` is the target's."""

    intermediate_size: Width
    draft_vocab_size: Count | None = None
    target_hidden_size: Width | None = None
    num_aux_hidden_states: Count | None = None
    norm_before_residual: bool = False
    given_layers: tuple[int, ...] = ()

    @property
    def columns(self) -> int:
        """Tokens that the draft can say."""
        return self.draft_vocab_size or self.vocab_size

    @property
    def feature_width(self) -> int:
        """Columns of the target's features."""
        return (self.num_aux_hidden_states or 3) * (self.target_hidden_size or self.hidden_size)

    def feature_layers(self, layers: int) -> tuple[int, ...]:
        """Layers of a target with ``layers`` whose outputs are its features, from 0; by default as EAGLE3 has them."""
        return self.given_layers or (1, layers // 2 - 1, layers - 4)


Draft = TypeVar("Draft", bound=DraftConfig)


def check_target(config: DraftConfig, target: ModelConfig) -> None:
    """Raise ``ConfigError`` for a model that the draft was not made for."""
    count, layers = target.num_hidden_layers, list(config.feature_layers(target.num_hidden_layers))
    width = config.target_hidden_size or config.hidden_size
    field = "target_hidden_size" if config.target_hidden_size else "hidden_size"
    there = layers == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < count
    checks = (
        (config.vocab_size == target.vocab_size, "vocab_size", config.vocab_size, target.vocab_size),
        (width == target.hidden_size, field, width, target.hidden_size),
        (there, "features of layers", layers, f"{count} layers"),
    )
    for holds, name, ours, theirs in checks:
        if not holds:
            raise ConfigError(
                f"config.json of the draft: {name} = {ours}, its target has {theirs}; give the folder of the model "
                "that it was made for"
            )


def parse_draft(cls: type[Draft], raw: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Draft:
    """The content of ``config.json`` as a ``cls``; ``names`` as in ``read_fields``. Raises ``ConfigError``."""
    refuse(raw, ONLY, "")
    eagle = raw.get("eagle_config") or {}
    if not isinstance(eagle, Mapping):
        raise ConfigError(f"config.json: eagle_config is a {type(eagle).__name__}; expected an object")
    refuse(eagle, EAGLE, "eagle_config.")
    before = _one(raw if "norm_before_residual" in raw else eagle, "norm_before_residual", bool, False)
    layers = _one(eagle, LAYERS, tuple[Index, ...], ())
    fields = {name: value for name, value in raw.items() if name not in ("given_layers", "norm_before_residual")}
    config = read_fields(cls, raw, fields, "", theta=10000.0, names=names)
    config = msgspec.structs.replace(config, given_layers=layers, norm_before_residual=before)
    count = config.num_aux_hidden_states or len(layers) or 3
    config = msgspec.structs.replace(config, num_aux_hidden_states=count)
    _check(config)
    return config


def _one(fields: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    try:
        return msgspec.convert(fields.get(name) or default, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config.json: {name}: {error}") from None


def _check(config: DraftConfig) -> None:
    layers, count = config.given_layers, config.num_aux_hidden_states
    checks = (
        (
            config.columns <= config.vocab_size,
            f"draft_vocab_size = {config.columns} exceeds vocab_size = {config.vocab_size}, which is the target's",
        ),
        (sorted(set(layers)) == list(layers), f"eagle_config.{LAYERS} = {shown(list(layers))} must rise"),
        (not layers or len(layers) == count, f"num_aux_hidden_states = {count} for {len(layers)} layers of features"),
        (
            config.feature_width != config.hidden_size,
            f"hidden_size = {config.hidden_size} is also the width of the features, which cannot be told from a "
            "draft's own hidden states then",
        ),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"config.json: {message}")
