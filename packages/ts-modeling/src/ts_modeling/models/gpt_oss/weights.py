"""Names of GPT-OSS's checkpoint tensors, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table, fused_entries
from .. import names
from .config import GptOssConfig


def checkpoint_table(config: GptOssConfig) -> Table:
    """Every tensor of the model; one holds a matrix of all experts of a layer."""
    return names.decoder_table(config, _layers(config))


def _layers(config: GptOssConfig) -> Iterator[Entry]:
    bias = config.attention_bias
    for layer in range(config.num_hidden_layers):
        name, module = f"model.layers.{layer}", f"layers.{layer}"
        yield from names.layer_norms(config, name, module)
        yield from names.attention(config, f"{name}.self_attn", f"{module}.attention", bias=bias, out_bias=bias)
        yield Entry(f"{name}.self_attn.sinks", f"{module}.attention.attend", "sinks")
        for part in ("weight", "bias"):
            yield Entry(f"{name}.mlp.router.{part}", f"{module}.mlp.router", part)
        for part in ("gate_up", "down"):
            stem = f"{name}.mlp.experts.{part}_proj"
            yield from fused_entries(stem, f"{module}.mlp.experts", part, config.format_of(stem), bias=True)
