"""Names of the tensors of draft heads' checkpoints, and the module and part that each one fills."""

from collections.abc import Iterator
from typing import Final

from ...checkpoint.table import Entry, Table, linear_entries
from .config import DraftConfig, Eagle3MLAConfig
from .model import LAYER

OTHER = "layers.0"
"""What the other files call the layer."""
NORMS = (("input_layernorm", "input_norm"), ("hidden_norm", "hidden_norm"), ("post_attention_layernorm", "post_norm"))
MLP = (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
SHARED: Final = {"embed_tokens.weight": "embed", "lm_head.weight": "head"}
"""What a head may leave to its target, and the target's module that has it."""


def checkpoint_table(config: DraftConfig) -> Table:
    """Every tensor of a head. ``t2d`` only says which tokens ``d2t`` names; a head for all tokens may lack both."""
    entries = [Entry("embed_tokens.weight", "embed", "weight"), Entry("norm.weight", "norm", "weight")]
    for stem, module, part in (("fc", "fuse", "fc"), ("lm_head", "head", "head")):
        entries += linear_entries(stem, module, part, config.format_of(stem))
    map_ = (Entry("d2t", "vocabulary", "offsets"),)
    ways = [(tuple(_layer(config, LAYER)), tuple(_layer(config, OTHER)))]
    if config.columns == config.vocab_size:
        ways.append(((), map_))
    else:
        entries += map_
    return Table(tuple(entries), either=tuple(ways), skipped=("t2d",), ignored_suffixes=(".rotary_emb.inv_freq",))


def _layer(config: DraftConfig, name: str) -> Iterator[Entry]:
    for norm, leaf in NORMS:
        yield Entry(f"{name}.{norm}.weight", f"layer.{leaf}", "weight")
    for matrix, leaf, part in _attention(config):
        scheme = config.format_of(f"{LAYER}.self_attn.{matrix}")
        yield from linear_entries(f"{name}.self_attn.{matrix}", f"layer.attention.{leaf}", part, scheme)
    for matrix, part in MLP:
        scheme = config.format_of(f"{LAYER}.mlp.{matrix}")
        yield from linear_entries(f"{name}.mlp.{matrix}", "layer.mlp", part, scheme)
    if isinstance(config, Eagle3MLAConfig):
        yield Entry(f"{name}.self_attn.kv_a_layernorm.weight", "layer.attention.attend", "norm")
        if config.q_lora_rank:
            yield Entry(f"{name}.self_attn.q_a_layernorm.weight", "layer.attention.q_a_norm", "weight")


def _attention(config: DraftConfig) -> list[tuple[str, str, str]]:
    """Matrices of attention, the modules that hold them and their parts."""
    if not isinstance(config, Eagle3MLAConfig):
        return [(f"{part}_proj", "qkv", part) for part in ("q", "k", "v")] + [("o_proj", "o", "o")]
    query = [("q_a_proj", "qkv_a", "q_a"), ("q_b_proj", "q", "q")] if config.q_lora_rank else [("q_proj", "q", "q")]
    rest = [("kv_a_proj_with_mqa", "qkv_a", "kv_a"), ("kv_b_proj", "attend", "kv_b"), ("o_proj", "o", "o")]
    return query + rest
