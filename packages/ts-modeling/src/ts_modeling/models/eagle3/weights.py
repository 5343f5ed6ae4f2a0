"""Names of the tensors of Llama's form, and the module and part that each one fills."""

from ...checkpoint.table import Table
from ..drafts.weights import attention_matrices, draft_table
from .config import Eagle3Config

MATRICES = (("q_proj", "qkv", "q"), ("k_proj", "qkv", "k"), ("v_proj", "qkv", "v"), ("o_proj", "o", "o"))


def checkpoint_table(config: Eagle3Config) -> Table:
    """Every tensor of a head."""
    return draft_table(config, lambda name: attention_matrices(config, name, MATRICES))
