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
    if config.num_experts is None:
        return table
    ways = [(tuple(_fused(config, i)), tuple(_single(config, i))) for i in range(config.num_hidden_layers)]
    return replace(table, either=tuple(ways))


def _layers(config: Qwen35Config) -> Iterator[Entry]:
    for layer, kind in enumerate(config.kinds()):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        yield from names.layer_norms(config, name, module)
        if kind == FULL:
            yield from names.attention(config, f"{name}.self_attn", f"{module}.attention", norms="attend")
        else:
            yield from _delta(config, f"{name}.linear_attn", f"{module}.attention")
        if config.num_experts is None:
            yield from names.mlp(config, f"{name}.mlp", f"{module}.mlp")
            continue
        yield from names.mlp(config, f"{name}.mlp.shared_expert", f"{module}.mlp.shared")
        yield Entry(config.stored(f"{name}.mlp.shared_expert_gate.weight"), f"{module}.mlp.shared", "score")
        yield Entry(config.stored(f"{name}.mlp.gate.weight"), f"{module}.mlp.router", "weight")


def _delta(config: Qwen35Config, name: str, module: str) -> Iterator[Entry]:
    for linear, (leaf, part) in LINEARS.items():
        yield from names.linear(config, f"{name}.{linear}", f"{module}.{leaf}", part)
    yield from names.linear(config, f"{name}.out_proj", f"{module}.o", "o")
    for tensor, part in RULE.items():
        yield Entry(config.stored(f"{name}.{tensor}"), f"{module}.rule", part)


def _fused(config: Qwen35Config, layer: int) -> Iterator[Entry]:
    name, module = f"model.layers.{layer}.mlp.experts", f"layers.{layer}.mlp.experts"
    for tensor, part, first in (("gate_up_proj", "gate+up", "gate_proj"), ("down_proj", "down", "down_proj")):
        scheme = config.format_of(f"{name}.0.{first}")
        yield from fused_entries(config.stored(f"{name}.{tensor}"), module, part, scheme)


def _single(config: Qwen35Config, layer: int) -> Iterator[Entry]:
    assert config.num_experts is not None
    yield from names.experts(
        config, f"model.layers.{layer}.mlp.experts", f"layers.{layer}.mlp.experts", config.num_experts
    )
