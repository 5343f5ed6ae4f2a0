"""``quant_method: compressed-tensors``: groups of modules, each with a format of its own."""

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ConfigError, shown
from .config import NAME, Group, Quantization, cache_advice, expect, mapping, patterns
from .fp4 import Mxfp4, Nvfp4
from .fp8 import INPUT_SCALE, Fp8Block, Fp8Channel
from .integer import Int8, PackedInt
from .scheme import Scheme

GROUPS: Final = (32, 64, 128)
MOST_BLOCK: Final = 1 << 14
Beside = tuple[str, ...]


def parse_compressed_tensors(raw: Mapping[str, Any]) -> Quantization:
    """Read ``quantization_config``. Raises ``ConfigError`` naming the field."""
    cache = cache_advice(raw)
    if raw.get("sparsity_config"):
        raise ConfigError(f"{NAME}.sparsity_config is not supported: give a checkpoint without sparse weights")
    groups = raw.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigError(f"{NAME}.config_groups must hold at least one group")
    parsed = tuple(_group(raw, group, f"{NAME}.config_groups.{name}") for name, group in groups.items())
    return Quantization(parsed, patterns(raw.get("ignore") or [], f"{NAME}.ignore"), cache)


def _group(raw: Mapping[str, Any], group: Any, where: str) -> Group:
    group = mapping(group, where)
    weights = mapping(group.get("weights"), f"{where}.weights")
    targets = patterns(group.get("targets"), f"{where}.targets")
    for target in targets:
        if target != "Linear" and "." not in target and not target.startswith("re:"):
            raise ConfigError(f"{where}.targets: {shown(target)} is not supported; only Linear modules are quantized")
    if group.get("output_activations"):
        raise ConfigError(f"{where}.output_activations: quantized results are not supported")
    stated = {"format": group.get("format") or raw.get("format")}
    kind = expect(stated, "format", tuple(FORMATS), where)
    return Group(targets, FORMATS[kind](weights, f"{where}.weights", _activations(group, kind, where)))


def _activations(group: Mapping[str, Any], kind: str, where: str) -> Beside:
    """Suffixes of the scales of activations, which stay in the type chosen at start and so need none."""
    raw = group.get("input_activations")
    if raw is None:
        return ()
    if kind == "pack-quantized":
        raise ConfigError(f"{where}.input_activations: quantized activations do not go with {kind}; remove them")
    fields = mapping(raw, f"{where}.input_activations")
    if kind.startswith("nvfp4"):
        return (".input_global_scale",)
    if fields.get("dynamic"):
        return ()
    return (INPUT_SCALE,) if fields.get("symmetric", True) else (INPUT_SCALE, ".input_zero_point")


def _packed(weights: Mapping[str, Any], where: str, beside: Beside) -> Scheme:
    expect(weights, "type", ("int",), where)
    bits = expect(weights, "num_bits", (4, 8), where)
    return PackedInt(bits, _int_group(weights, where), expect(weights, "symmetric", (True, False), where))


def _int_group(weights: Mapping[str, Any], where: str) -> int:
    strategy = expect(weights, "strategy", ("group", "channel"), where)
    if weights.get("actorder") not in (None, False, "static", "weight"):
        raise ConfigError(f"{where}.actorder is not supported: columns must be in their own order")
    return int(expect(weights, "group_size", GROUPS, where)) if strategy == "group" else 0


def _bytes(weights: Mapping[str, Any], where: str, beside: Beside) -> Scheme:
    """``int-quantized`` or ``float-quantized``, whose type says which."""
    expect(weights, "num_bits", (8,), where)
    if expect(weights, "type", ("int", "float"), where) == "int":
        symmetric = expect(weights, "symmetric", (True, False), where)
        return Int8(8, _int_group(weights, where), symmetric, beside)
    strategy = expect(weights, "strategy", ("tensor", "channel", "block"), where)
    expect(weights, "symmetric", (True,), where)
    if strategy == "block":
        return Fp8Block(
            block_sizes(weights.get("block_structure"), f"{where}.block_structure"), ".weight_scale", beside
        )
    return Fp8Channel(strategy == "tensor", beside)


def block_sizes(raw: Any, where: str) -> tuple[int, int]:
    """Rows and columns of a block. Raises ``ConfigError``."""
    if isinstance(raw, list) and len(raw) == 2 and all(type(n) is int and 1 <= n <= MOST_BLOCK for n in raw):
        return raw[0], raw[1]
    raise ConfigError(f"{where} = {shown(raw)} is not supported; give two sizes, as [128, 128]")


def _fp4(weights: Mapping[str, Any], where: str, beside: Beside) -> Scheme:
    """NVFP4 or MXFP4, whose groups say which."""
    expect(weights, "num_bits", (4,), where)
    expect(weights, "type", ("float",), where)
    expect(weights, "symmetric", (True,), where)
    if expect(weights, "group_size", (16, 32), where) == 16:
        return Nvfp4(divides=True, beside=beside)
    return Mxfp4(beside=beside)


FORMATS: Final = {
    "pack-quantized": _packed,
    "int-quantized": _bytes,
    "float-quantized": _bytes,
    "naive-quantized": _bytes,
    "nvfp4-pack-quantized": _fp4,
    "mxfp4-pack-quantized": _fp4,
}
