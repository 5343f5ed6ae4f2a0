"""Names of MiniMax M2's checkpoint tensors, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table
from .. import names
from .config import MiniMaxM2Config

MATRICES = (("w1", "gate"), ("w3", "up"), ("w2", "down"))


def checkpoint_table(config: MiniMaxM2Config) -> Table:
    """Every tensor of the model; those for multi-token prediction are known and left for others."""
    extra = tuple(f"model.layers.{i}." for i in config.extra_layers)
    return names.decoder_table(config, _layers(config), skipped=extra)


def _layers(config: MiniMaxM2Config) -> Iterator[Entry]:
    for layer in range(config.num_hidden_layers):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        moe, count = f"{name}.block_sparse_moe", config.num_local_experts
        yield from names.layer_norms(config, name, module)
        yield from names.attention(config, f"{name}.self_attn", f"{module}.attention", norms="norm")
        yield Entry(f"{moe}.gate.weight", f"{module}.mlp.router", "weight")
        yield Entry(f"{moe}.e_score_correction_bias", f"{module}.mlp.router", "bias")
        yield from names.experts(config, f"{moe}.experts", f"{module}.mlp.experts", count, MATRICES)
