"""Names of Qwen3's checkpoint tensors, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table
from .. import names
from .config import Qwen3Config


def checkpoint_table(config: Qwen3Config) -> Table:
    """Every tensor of the model."""
    return names.decoder_table(config, _layers(config))


def _layers(config: Qwen3Config) -> Iterator[Entry]:
    bias = config.attention_bias
    for layer in range(config.num_hidden_layers):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        yield from names.layer_norms(config, name, module)
        yield from names.attention(
            config, f"{name}.self_attn", f"{module}.attention", bias=bias, out_bias=bias, norms="attend"
        )
        yield from names.mlp(config, f"{name}.mlp", f"{module}.mlp")
