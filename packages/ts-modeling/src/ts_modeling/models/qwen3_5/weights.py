"""Names of Qwen 3.5's checkpoint tensors, and the module and part that each one fills."""

from collections.abc import Iterator
from dataclasses import replace

from ...checkpoint.table import Entry, Table, fused_entries
from .. import names
from .config import FULL, Qwen35Config

SKIPPED = ("model.visual.", "mtp.")
"""Parts of the full checkpoint that the text model does not use: vision, multi-token prediction."""
RULE = {"A_log": "a_log", "dt_bias": "dt_bias", "conv1d.weight": "conv", "norm.weight": "norm"}
LINEARS = {
    "in_proj_qkv": ("qkvz", "q+k+v"),
    "in_proj_z": ("qkvz", "z"),
    "in_proj_b": ("ba", "b"),
    "in_proj_a": ("ba", "a"),
}


def checkpoint_table(config: Qwen35Config) -> Table:
    """Every tensor of the text model; a layer's experts may be one tensor or have tensors of their own."""
    table = names.decoder_table(config, _layers(config), skipped=SKIPPED)
    return replace(table, either=tuple(way for i in range(config.num_hidden_layers) for way in expert_ways(config, i)))


def _layers(config: Qwen35Config) -> Iterator[Entry]:
    for layer, kind in enumerate(config.kinds()):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        yield from layer_entries(config, kind, name, module)


def layer_entries(config: Qwen35Config, kind: str, name: str, module: str) -> Iterator[Entry]:
    """The decoder layer called ``name``, without routed experts."""
    yield from names.layer_norms(config, name, module)
    if kind == FULL:
        yield from names.attention(config, f"{name}.self_attn", f"{module}.attention", norms="attend")
    else:
        yield from _delta(config, f"{name}.linear_attn", f"{module}.attention")
    if config.num_experts is None:
        yield from names.mlp(config, f"{name}.mlp", f"{module}.mlp")
        return
    yield from names.mlp(config, f"{name}.mlp.shared_expert", f"{module}.mlp.shared")
    yield Entry(config.stored(f"{name}.mlp.shared_expert_gate.weight"), f"{module}.mlp.shared", "score")
    yield Entry(config.stored(f"{name}.mlp.gate.weight"), f"{module}.mlp.router", "weight")


def _delta(config: Qwen35Config, name: str, module: str) -> Iterator[Entry]:
    for linear, (leaf, part) in LINEARS.items():
        yield from names.linear(config, f"{name}.{linear}", f"{module}.{leaf}", part)
    yield from names.linear(config, f"{name}.out_proj", f"{module}.o", "o")
    for tensor, part in RULE.items():
        yield Entry(config.stored(f"{name}.{tensor}"), f"{module}.rule", part)


def expert_ways(
    config: Qwen35Config, layer: int, layers: str = "model.layers", module: str = ""
) -> Iterator[tuple[tuple[Entry, ...], tuple[Entry, ...]]]:
    """Both forms of a layer's routed experts, where it has any; ``module`` is the layer."""
    name, experts = f"{layers}.{layer}.mlp.experts", f"{module or f'layers.{layer}'}.mlp.experts"
    if config.num_experts is not None:
        single = names.experts(config, name, experts, config.num_experts)
        yield tuple(_fused(config, name, experts)), tuple(single)


def _fused(config: Qwen35Config, name: str, module: str) -> Iterator[Entry]:
    for tensor, part, first in (("gate_up_proj", "gate+up", "gate_proj"), ("down_proj", "down", "down_proj")):
        scheme = config.format_of(f"{name}.0.{first}")
        yield from fused_entries(config.stored(f"{name}.{tensor}"), module, part, scheme)
