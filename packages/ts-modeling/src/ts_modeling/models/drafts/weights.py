"""Names of the tensors of draft heads' checkpoints, and the module and part that each one fills."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ...checkpoint.table import Entry, Table, linear_entries
from .config import DraftConfig
from .model import LAYER

OTHER = "layers.0"
"""What the other files call the layer."""
NORMS = (("input_layernorm", "input_norm"), ("hidden_norm", "hidden_norm"), ("post_attention_layernorm", "post_norm"))
MLP = (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
SHARED: Final = {"embed_tokens.weight": "embed", "lm_head.weight": "head"}
"""What a head may leave to its target, and the target's module that has it."""


def draft_table(config: DraftConfig, attention: Callable[[str], Iterator[Entry]]) -> Table:
    """Every tensor of a head; ``attention`` gives those of the layer of that name.

    ``t2d`` only says which tokens ``d2t`` names; a head for all tokens may lack both.
    """
    entries = [Entry("embed_tokens.weight", "embed", "weight"), Entry("norm.weight", "norm", "weight")]
    for stem, module, part in (("fc", "fuse", "fc"), ("lm_head", "head", "head")):
        entries += linear_entries(stem, module, part, config.format_of(stem))
    map_ = (Entry("d2t", "vocabulary", "offsets"),)
    first, second = ((*_layer(config, name), *attention(name)) for name in (LAYER, OTHER))
    ways: list[tuple[tuple[Entry, ...], tuple[Entry, ...]]] = [(first, second)]
    if config.columns == config.vocab_size:
        ways.append(((), map_))
    else:
        entries += map_
    return Table(tuple(entries), either=tuple(ways), skipped=("t2d",), ignored_suffixes=(".rotary_emb.inv_freq",))


def _layer(config: DraftConfig, name: str) -> Iterator[Entry]:
    for norm, leaf in NORMS:
        yield Entry(f"{name}.{norm}.weight", f"layer.{leaf}", "weight")
    for matrix, part in MLP:
        scheme = config.format_of(f"{LAYER}.mlp.{matrix}")
        yield from linear_entries(f"{name}.mlp.{matrix}", "layer.mlp", part, scheme)


def attention_matrices(config: DraftConfig, name: str, matrices: Iterable[tuple[str, str, str]]) -> Iterator[Entry]:
    """Matrices of attention in the layer ``name``, with the module that holds each and its part."""
    for matrix, leaf, part in matrices:
        scheme = config.format_of(f"{LAYER}.self_attn.{matrix}")
        yield from linear_entries(f"{name}.self_attn.{matrix}", f"layer.attention.{leaf}", part, scheme)
