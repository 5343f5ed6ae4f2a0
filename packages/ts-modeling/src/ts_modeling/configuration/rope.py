"""``rope_scaling`` (or transformers 5's ``rope_parameters``) of a ``config.json``: typed, or refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ..errors import ConfigError, shown
from ..layers.rotary import LinearScaling, Llama3Scaling, Rope, Scaling, Yarn

Factor = Annotated[float, msgspec.Meta(ge=1, le=1e6)]
Positions = Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
Magnitude = Annotated[float, msgspec.Meta(ge=0, le=1e3)]
Theta = Annotated[float, msgspec.Meta(gt=1, le=1e12)]
Part = Annotated[float, msgspec.Meta(gt=0, le=1)]
NAMES: Final = ("rope_scaling", "rope_parameters")
ANY: Final = frozenset(
    {"type", "rope_type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}
)
"""Fields of every kind. Those of mrope say how images are placed; text has three equal positions."""


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Linear(_Fields, frozen=True, kw_only=True):
    factor: Factor


class _Llama3(_Fields, frozen=True, kw_only=True):
    factor: Factor
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Positions


class _Yarn(_Fields, frozen=True, kw_only=True):
    factor: Factor
    original_max_position_embeddings: Positions
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: Magnitude = 0.0
    mscale_all_dim: Magnitude = 0.0
    attention_factor: Positive | None = None
    truncate: bool = True


KINDS: Final[Mapping[str, tuple[type[_Fields], type[Scaling]]]] = {
    "linear": (_Linear, LinearScaling),
    "llama3": (_Llama3, Llama3Scaling),
    "yarn": (_Yarn, Yarn),
}


def parse_rope(text: Mapping[str, Any], where: str, *, theta: float | None = None, partial: float = 1.0) -> Rope:
    """Read a text model's rotary fields; ``theta`` None means that the file must give it.

    Raises ``ConfigError`` naming the field.
    """
    given = {name: text[name] for name in NAMES if text.get(name) is not None}
    for name, fields in given.items():
        if not isinstance(fields, Mapping):
            raise ConfigError(f"config.json: {where}{name} is a {type(fields).__name__}; expected an object")
    if all(given.get(name) for name in NAMES):
        alone = [parse_rope({**text, name: None}, where, theta=theta, partial=partial) for name in NAMES]
        if alone[0] != alone[1]:
            raise ConfigError(f"config.json: {where}rope_scaling and {where}rope_parameters disagree; keep one of them")
    name = "rope_scaling" if given.get("rope_scaling") else "rope_parameters"
    raw = given.get(name, {})
    base = _one(raw, text, "rope_theta", Theta, where, theta)
    part = _one(raw, text, "partial_rotary_factor", Part, where, partial)
    return Rope(theta=base, partial=part, scaling=_scaling(raw, f"config.json: {where}{name}"))


def _one(raw: Mapping[str, Any], text: Mapping[str, Any], field: str, kind: Any, where: str, default: Any) -> float:
    """A number that stands in the rotary fields, beside them, or nowhere."""
    places = (raw, text.get("rope_parameters") or {}, text)
    value = next((p[field] for p in places if isinstance(p, Mapping) and p.get(field) is not None), default)
    if value is None:
        raise ConfigError(f"config.json: {where}{field} is missing; give the base of the rotary embedding")
    try:
        return float(msgspec.convert(value, kind))
    except msgspec.ValidationError as error:
        raise ConfigError(f"config.json: {where}{field} = {shown(value)}: {error}") from None


def _scaling(raw: Mapping[str, Any], name: str) -> Scaling | None:
    named = "rope_type" if "rope_type" in raw else "type"
    kind = raw.get(named, "default")
    parts = [field for field, value in raw.items() if isinstance(value, Mapping)]
    if parts:
        raise ConfigError(f"{name}.{parts[0]} is an object; only one rotary embedding for all layers is supported")
    given = {k: v for k, v in raw.items() if k not in ANY}
    if given and "rope_type" not in raw and "type" not in raw:
        raise ConfigError(f"{name} has {next(iter(given))} and no rope_type; give one of default, {', '.join(KINDS)}")
    given = {k: v for k, v in given.items() if v is not None}
    if kind == "default":
        _only(given, (), name, kind)
        return None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{name}.{named} = {shown(kind)} is not supported; supported are default, {', '.join(KINDS)}")
    fields, made = KINDS[kind]
    _only(given, fields.__struct_fields__, name, kind)
    try:
        values = msgspec.structs.asdict(msgspec.convert(given, fields))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
    if "original_max_position_embeddings" in values:
        values["original_max_positions"] = values.pop("original_max_position_embeddings")
    if kind == "llama3" and values["high_freq_factor"] <= values["low_freq_factor"]:
        raise ConfigError(f"{name}.high_freq_factor must exceed low_freq_factor = {values['low_freq_factor']}")
    return made(**values)


def _only(given: Mapping[str, Any], known: tuple[str, ...], name: str, kind: str) -> None:
    """Refuse a field that the kind of scaling does not have."""
    unknown = sorted(given.keys() - set(known))
    if unknown:
        value = f"{name}.{unknown[0]} = {shown(given[unknown[0]])}"
        raise ConfigError(f"{value} is not supported with {kind}; leave it out")
