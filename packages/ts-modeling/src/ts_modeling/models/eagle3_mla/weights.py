"""Names of the tensors of the form with latent attention, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table
from ..drafts.weights import attention_matrices, draft_table
from .config import Eagle3MLAConfig

MATRICES = (("kv_a_proj_with_mqa", "qkv_a", "kv_a"), ("kv_b_proj", "attend", "kv_b"), ("o_proj", "o", "o"))
LATENT_QUERIES = (("q_a_proj", "qkv_a", "q_a"), ("q_b_proj", "q", "q"))
PLAIN_QUERIES = (("q_proj", "q", "q"),)


def checkpoint_table(config: Eagle3MLAConfig) -> Table:
    """Every tensor of a head."""
    return draft_table(config, lambda name: _attention(config, name))


def _attention(config: Eagle3MLAConfig, name: str) -> Iterator[Entry]:
    queries = LATENT_QUERIES if config.q_lora_rank else PLAIN_QUERIES
    yield from attention_matrices(config, name, (*queries, *MATRICES))
    yield Entry(f"{name}.self_attn.kv_a_layernorm.weight", "layer.attention.attend", "norm")
    if config.q_lora_rank:
        yield Entry(f"{name}.self_attn.q_a_layernorm.weight", "layer.attention.q_a_norm", "weight")
