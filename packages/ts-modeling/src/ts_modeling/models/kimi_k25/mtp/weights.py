"""Names of the layer's tensors, which follow those of its target's last layer."""

from ....checkpoint.table import Table
from ....quantization import scheme_of
from ...mtp import table
from ...mtp.weights import Names
from ..weights import SKIPPED, layer_entries
from .config import KimiK25MTPConfig


def checkpoint_table(config: KimiK25MTPConfig) -> Table:
    """Every tensor of the draft; its target's are known and left alone.

    Embedding and head are the target's. DeepSeek's files hold copies of both in the layer, which are then read.
    """
    prefix, layer = config.prefix, config.num_hidden_layers
    name = f"{prefix}model.layers.{layer}"
    names = Names(
        embed_norm=f"{name}.enorm",
        state_norm=f"{name}.hnorm",
        project=f"{name}.eh_proj",
        norm=f"{name}.shared_head.norm",
        embed=f"{prefix}model.embed_tokens",
        head=f"{prefix}lm_head",
    )
    return table(
        names,
        layer_entries(config, layer, prefix, "layer"),
        head=scheme_of(config.quantization, "lm_head"),
        copies=(f"{name}.embed_tokens", f"{name}.shared_head.head"),
        skipped=(*SKIPPED, f"{prefix}model.norm.", *(f"{prefix}model.layers.{i}." for i in range(layer))),
    )
