"""``quantization_config`` of a ``config.json``: which Linear module is stored how."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import ConfigError, shown
from .scheme import PLAIN, Scheme

NAME: Final = "config.json: quantization_config"
OUTER: Final = (("", "language_model."), ("model.", "model.language_model."))
"""How multimodal checkpoints call the modules of their text model, in names and in lists of names."""


@dataclass(frozen=True)
class Group:
    """One format and the modules that it is for: ``Linear``, names, or regular expressions after ``re:``."""

    targets: tuple[str, ...]
    scheme: Scheme


@dataclass(frozen=True)
class Quantization:
    """Formats by module name. The first group that names a module wins; groups for ``Linear`` come last."""

    groups: tuple[Group, ...]
    ignore: tuple[str, ...] = ()
    cache: str = ""
    """What the file asks of the cache, as it says so; empty where it asks nothing."""

    def scheme_of(self, *modules: str) -> Scheme:
        """How the Linear modules of these names (relative to the text model) are stored.

        Several are stacked into one, and so must agree. Raises ``ConfigError`` naming two that do not.
        """
        schemes = {name: self._one(name) for name in modules}
        first = modules[0]
        for name, scheme in schemes.items():
            if scheme != schemes[first]:
                raise ConfigError(
                    f"{NAME}: {first} is {schemes[first]}, {name} is {scheme}; matrices that are stacked must have one "
                    "format: quantize both alike, or `ignore` both"
                )
        return schemes[first]

    def check_experts(self, name: str, count: int, matrices: Iterable[str]) -> None:
        """Raise ``ConfigError`` naming the first of the experts ``name.0``, ... that is not stored as most of them are.

        Only where a pattern could tell them apart: there may be a hundred thousand.
        """
        if not any(_tells_apart(p, name) for p in (*self.ignore, *(t for g in self.groups for t in g.targets))):
            return
        for matrix in matrices:
            schemes = [self._one(f"{name}.{expert}.{matrix}") for expert in range(count)]
            usual = Counter(schemes).most_common(1)[0][0]
            other = next((expert for expert, scheme in enumerate(schemes) if scheme != usual), None)
            if other is not None:
                raise ConfigError(
                    f"{NAME}: {name}.{other}.{matrix} is {schemes[other]}, other experts are {usual}; experts of one "
                    "layer in mixed formats are not supported: quantize all of them alike, or `ignore` them all"
                )

    def _one(self, module: str) -> Scheme:
        if any(_matches(pattern, module) for pattern in self.ignore):
            return PLAIN
        named = (g.scheme for g in self.groups if any(_matches(t, module) for t in g.targets))
        linear = (g.scheme for g in self.groups if "Linear" in g.targets)
        return next(named, None) or next(linear, PLAIN)


def scheme_of(quantization: Quantization | None, *modules: str) -> Scheme:
    """``quantization.scheme_of``, or plain where there is none."""
    return quantization.scheme_of(*modules) if quantization else PLAIN


CACHE_SCALES: Final = (
    ".k_proj.k_scale",
    ".v_proj.v_scale",
    ".kv_a_proj_with_mqa.k_scale",
    ".self_attn.k_scale",
    ".self_attn.v_scale",
)
"""Ends of the names of a cache's factors: ModelOpt's, also those of latent attention, and compressed-tensors'."""


def cache_advice(raw: Mapping[str, Any]) -> str:
    """What ``raw`` asks of the cache: FP8, which advises, as a cache whose type is chosen at start is no less precise.

    Its factors are for FP8 alone. Raises ``ConfigError`` for other quantized caches.
    """
    algorithm = raw.get("kv_cache_quant_algo")
    if algorithm not in (None, "FP8"):
        raise ConfigError(f"{NAME}.kv_cache_quant_algo = {shown(algorithm)} is not supported; only 'FP8' is")
    asked = f"kv_cache_quant_algo = {algorithm!r}" if algorithm else ""
    scheme = raw.get("kv_cache_scheme")
    if not scheme:
        return asked
    where = f"{NAME}.kv_cache_scheme"
    bits, kind = expect(scheme, "num_bits", (8,), where), expect(scheme, "type", ("float",), where)
    return f"kv_cache_scheme with num_bits = {bits}, type = {kind!r}"


def expect(raw: Any, field: str, values: tuple[Any, ...], where: str) -> Any:
    """``raw[field]`` if it is one of ``values``. Raises ``ConfigError`` naming it."""
    value = mapping(raw, where).get(field)
    if value not in values:
        allowed = " or ".join(repr(v) for v in values)
        raise ConfigError(f"{where}.{field} = {shown(value)} is not supported; only {allowed} is")
    return value


def mapping(raw: Any, where: str) -> Mapping[str, Any]:
    """``raw`` if it is an object. Raises ``ConfigError``."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is a {type(raw).__name__}; expected an object")
    return raw


def patterns(raw: Any, where: str) -> tuple[str, ...]:
    """A list of names and regular expressions. Raises ``ConfigError``."""
    if not isinstance(raw, list) or not all(isinstance(entry, str) for entry in raw):
        raise ConfigError(f"{where} must be a list of names")
    for entry in raw:
        if entry.startswith("re:"):
            try:
                re.compile(entry[3:])
            except re.error as error:
                raise ConfigError(f"{where}: {shown(entry)} is no regular expression: {error}") from None
    return tuple(raw)


def _tells_apart(pattern: str, name: str) -> bool:
    """Whether a pattern may match some of the modules within ``name`` and not others, by their numbers."""
    if pattern.startswith("re:"):
        return re.search(r"\d|\[|\{", pattern) is not None
    return f"{name.removeprefix('model.')}." in pattern


@functools.cache
def _regular(pattern: str) -> re.Pattern[str]:
    """Compiled once: ``re`` looks each up among those that it knows."""
    return re.compile(pattern)


def _matches(pattern: str, module: str) -> bool:
    names = (module, *(outer + module.removeprefix(own) for own, outer in OUTER))
    if pattern.startswith("re:"):
        return any(map(_regular(pattern[3:]).match, names))
    return pattern in names
