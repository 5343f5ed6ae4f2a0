"""Names of the checkpoint tensors of Qwen3's mixture, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table
from .. import names
from .config import Qwen3MoeConfig


def checkpoint_table(config: Qwen3MoeConfig) -> Table:
    """Every tensor of the model."""
    return names.decoder_table(config, _layers(config))


def _layers(config: Qwen3MoeConfig) -> Iterator[Entry]:
    bias = config.attention_bias
    for layer in range(config.num_hidden_layers):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        yield from names.layer_norms(config, name, module)
        yield from names.attention(
            config, f"{name}.self_attn", f"{module}.attention", bias=bias, out_bias=bias, norms="attend"
        )
        if config.is_dense(layer):
            yield from names.mlp(config, f"{name}.mlp", f"{module}.mlp")
            continue
        yield Entry(config.stored(f"{name}.mlp.gate.weight"), f"{module}.mlp.router", "weight")
        yield from names.experts(config, f"{name}.mlp.experts", f"{module}.mlp.experts", config.num_experts)
