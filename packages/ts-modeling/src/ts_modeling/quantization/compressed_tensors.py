"""``quant_method: compressed-tensors``: groups of modules, each with a format of its own."""

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ConfigError
from .config import NAME, Group, Quantization, expect, mapping, patterns
from .integer import PackedInt
from .scheme import Scheme

GROUPS: Final = (32, 64, 128)


def parse_compressed_tensors(raw: Mapping[str, Any]) -> Quantization:
    """Read ``quantization_config``. Raises ``ConfigError`` naming the field."""
    if raw.get("kv_cache_scheme"):
        raise ConfigError(f"{NAME}.kv_cache_scheme is not supported; remove it, and choose the cache's type at start")
    groups = raw.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigError(f"{NAME}.config_groups must hold at least one group")
    parsed = tuple(_group(raw, group, f"{NAME}.config_groups.{name}") for name, group in groups.items())
    return Quantization(parsed, patterns(raw.get("ignore") or [], f"{NAME}.ignore"))


def _group(raw: Mapping[str, Any], group: Any, where: str) -> Group:
    group = mapping(group, where)
    weights = mapping(group.get("weights"), f"{where}.weights")
    targets = patterns(group.get("targets"), f"{where}.targets")
    for target in targets:
        if target != "Linear" and "." not in target and not target.startswith("re:"):
            raise ConfigError(f"{where}.targets: {target!r} is not supported; only Linear modules are quantized")
    format = expect({"format": group.get("format") or raw.get("format")}, "format", tuple(FORMATS), where)
    if group.get("input_activations"):
        raise ConfigError(f"{where}.input_activations: quantized activations are not supported")
    return Group(targets, FORMATS[format](weights, f"{where}.weights"))


def _packed(weights: Mapping[str, Any], where: str) -> Scheme:
    expect(weights, "type", ("int",), where)
    bits = expect(weights, "num_bits", (4,), where)
    strategy = expect(weights, "strategy", ("group", "channel"), where)
    if weights.get("actorder") not in (None, False, "static", "weight"):
        raise ConfigError(f"{where}.actorder is not supported: columns must be in their own order")
    group = expect(weights, "group_size", GROUPS, where) if strategy == "group" else 0
    return PackedInt(bits, group, expect(weights, "symmetric", (True, False), where))


FORMATS: Final = {"pack-quantized": _packed}
