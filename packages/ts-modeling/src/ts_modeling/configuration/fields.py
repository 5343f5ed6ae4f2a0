"""Fields that every decoder has, and how they are read from the content of ``config.json``."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec

from ..errors import ConfigError, shown
from ..layers.rotary import Rope
from ..quantization import Quantization, Scheme, parse_quantization, scheme_of
from .rope import parse_rope

Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
DERIVED: Final = frozenset({"rope", "quantization", "prefix", "inner", "vision"})
"""Fields of a configuration that are parsed from others."""
MOST_EXPERTS: Final = 1 << 17
"""In all layers together, five times those of Kimi K2.5: the table of tensors is made before a file is looked at."""


class ModelConfig(Protocol):
    """What others may read of any model's configuration."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def num_hidden_layers(self) -> int:
        """Layers, without those for multi-token prediction."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence that the checkpoint was made for."""
        ...

    @property
    def quantization(self) -> Quantization | None:
        """Formats of its weights, and what it asks of the cache."""
        ...


class DecoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Names follow ``config.json``; ``rope``, ``quantization``, ``prefix`` and ``inner`` are derived."""

    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    hidden_size: Width
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    num_attention_heads: Count
    rms_norm_eps: Positive
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]
    tie_word_embeddings: bool = False
    rope: Rope = Rope(theta=10000.0)
    quantization: Quantization | None = None
    prefix: str = ""
    """Before the text model's names, where it is a part of a multimodal checkpoint."""
    inner: str = ""
    """The same, where it stands after ``model.`` in them."""

    def stored(self, name: str) -> str:
        """What the checkpoint calls ``name`` of the text model."""
        body = name.startswith("model.")
        return f"{self.prefix}model.{self.inner}{name.removeprefix('model.')}" if body else self.prefix + name

    def format_of(self, name: str, *parts: str) -> Scheme:
        """How the Linear modules ``parts`` of ``name``, stacked into one, are stored; ``name`` itself without any."""
        return scheme_of(self.quantization, *(f"{name}.{part}" for part in parts) if parts else (name,))


class GroupedConfig(DecoderConfig, frozen=True, kw_only=True):
    """A decoder with grouped-query attention."""

    num_key_value_heads: Count | None = None
    head_dim: Width | None = None
    attention_bias: bool = False

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; as many as queries unless given."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """Columns of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """Columns of one head that turn with the position."""
        return self.rope.width(self.head_width)


Config = TypeVar("Config", bound=DecoderConfig)
Part = TypeVar("Part", bound=msgspec.Struct)


def text_part(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The text model's fields and what precedes their names in messages (multimodal files have ``text_config``)."""
    if "text_config" not in raw:
        return raw, ""
    text = raw["text_config"]
    if not isinstance(text, Mapping):
        raise ConfigError(f"config.json: text_config is a {type(text).__name__}; expected an object")
    return text, "text_config."


def refuse(text: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Raise ``ConfigError`` for a field that has another value than those of ``only``; one left out is fine.

    Fields may stand among the rotary ones too.
    """
    places = [(where, text)]
    for part in ("rope_scaling", "rope_parameters"):
        fields = text.get(part)
        if isinstance(fields, Mapping):
            places.append((f"{where}{part}.", fields))
    for path, fields in places:
        for name, allowed in only.items():
            if name in fields and fields[name] not in allowed:
                value = f"{path}{name} = {shown(fields[name])}"
                raise ConfigError(f"config.json: {value} is not supported; only {allowed[0]!r} is")


def read_fields(
    cls: type[Config],
    raw: Mapping[str, Any],
    text: Mapping[str, Any],
    where: str,
    *,
    theta: float | None = None,
    partial: float = 1.0,
    names: Mapping[str, str] | None = None,
) -> Config:
    """``text`` as a ``cls``; ``theta`` and ``partial`` are the model's defaults for rotary base and turning part.

    ``names`` says where a field of ``cls`` has another name in the file. Raises ``ConfigError`` naming the field.
    """
    theirs = {name: (names or {}).get(name, name) for name in cls.__struct_fields__ if name not in DERIVED}
    config = read_part(cls, {name: text[source] for name, source in theirs.items() if source in text}, where)
    config = msgspec.structs.replace(
        config,
        rope=parse_rope(text, where, theta=theta, partial=partial),
        quantization=parse_quantization(text.get("quantization_config", raw.get("quantization_config"))),
    )
    if isinstance(config, GroupedConfig):
        _check_heads(config, where)
    return config


def read_part(cls: type[Part], fields: Mapping[str, Any], where: str = "") -> Part:
    """Those of ``fields`` that ``cls`` has, as a ``cls``. Raises ``ConfigError`` naming the field."""
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config.json: {error}".replace("`$.", f"`{where}")) from None


def check_experts(layers: int, experts: int, chosen: int, where: str, names: tuple[str, str]) -> None:
    """Refuse more experts than a table of tensors may list, and a choice of more than there are."""
    if layers * experts > MOST_EXPERTS:
        raise ConfigError(
            f"config.json: {where}num_hidden_layers = {layers} with {names[0]} = {experts} are more experts than "
            f"{MOST_EXPERTS}"
        )
    if chosen > experts:
        raise ConfigError(f"config.json: {where}{names[1]} = {chosen} exceeds {names[0]} = {experts}")


def layer_kinds(
    given: tuple[str, ...] | None, layers: int, known: tuple[str, ...], default: Callable[[int], str], where: str
) -> tuple[str, ...]:
    """``layer_types``: one of ``known`` for each layer, or by ``default`` where the file does not say."""
    kinds = given if given is not None else tuple(default(i) for i in range(layers))
    if len(kinds) != layers:
        raise ConfigError(f"config.json: {where}layer_types has {len(kinds)} entries for {layers} layers")
    wrong = sorted(set(kinds) - set(known))
    if wrong:
        raise ConfigError(f"config.json: {where}layer_types holds {shown(wrong[0])}; supported are {', '.join(known)}")
    return kinds


def _check_heads(config: GroupedConfig, where: str) -> None:
    heads, shared, turning = config.num_attention_heads, config.kv_heads, config.rotary_width
    part = f" with partial_rotary_factor = {config.rope.partial:g}" if config.rope.partial != 1 else ""
    checks = (
        (heads % shared == 0, f"num_key_value_heads = {shared} must divide num_attention_heads = {heads}"),
        (
            config.head_dim is not None or config.hidden_size % heads == 0,
            f"num_attention_heads = {heads} must divide hidden_size = {config.hidden_size}, or head_dim be given",
        ),
        (
            turning >= 2 and turning % 2 == 0,
            f"head_dim = {config.head_width}{part} leaves {turning} rotary columns; an even number is needed",
        ),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"config.json: {where}{message}")
