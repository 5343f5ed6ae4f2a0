"""Names of the layer's tensors, which begin with ``mtp.`` whatever precedes those of its target."""

from ....checkpoint.table import Table
from ....quantization import PLAIN
from ...mtp import table
from ...mtp.weights import Names
from ..config import FULL
from ..weights import expert_ways, layer_entries
from .config import Qwen35MTPConfig
from .model import LAYERS


def checkpoint_table(config: Qwen35MTPConfig) -> Table:
    """Every tensor of the draft; its target's are known and left alone, but embedding and head, which are both's."""
    tied = config.tie_word_embeddings
    embed = config.stored("model.embed_tokens")
    names = Names(
        embed_norm="mtp.pre_fc_norm_embedding",
        state_norm="mtp.pre_fc_norm_hidden",
        project="mtp.fc",
        norm="mtp.norm",
        embed=embed,
        head=embed if tied else config.stored("lm_head"),
    )
    others = (config.stored("model.layers."), config.stored("model.norm."), "model.visual.")
    return table(
        names,
        layer_entries(config, FULL, f"{LAYERS}.0", "layer"),
        project=config.format_of("mtp.fc"),
        head=PLAIN if tied else config.format_of("lm_head"),
        either=tuple(expert_ways(config, 0, LAYERS, "layer")),
        skipped=(*others, config.stored("lm_head.")) if tied else others,
    )
