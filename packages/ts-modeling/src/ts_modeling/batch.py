"""One step's inputs to a compiled model.

Legend: F features, D hidden, T tokens, B decode rows, P prefill rows, S sampled rows, M most pages of a row.
"""

from dataclasses import dataclass

from torch import Tensor

from .vision import MediaRows


@dataclass(slots=True)
class StateRows:
    """Slots of the rows' running states, each row its own; a decode row always continues one."""

    decode: Tensor
    """int64 [B]."""
    prefill: Tensor
    """int64 [P]."""
    fresh: Tensor
    """Prefill rows that begin a sequence, and so start from zeros whatever their slot holds; bool [P]."""


@dataclass(slots=True)
class ForwardBatch:
    """Decode rows come first, one token each, then the tokens of the prefill rows in row order.

    Sequence lengths count the tokens of this step. Unused halves may hold empty tensors. On a mesh with ``attn_dp`` a
    rank's batch holds its own group's tokens, and ``dp_sizes`` the number of tokens of every group. Full attention and
    windows share block tables: a window's older pages are simply not read.
    """

    tokens: Tensor
    """Token ids, int32 or int64 [T]."""
    positions: Tensor
    """Position of each token in its sequence, int64 [T]."""
    slot_mapping: Tensor
    """Where each token's cache entry goes: page * page_size + offset, int64 [T]."""
    n_decode: int
    """B."""
    decode_block_tables: Tensor
    """Pages of each decode row, int32 [B, M]."""
    decode_seq_lens: Tensor
    """int32 [B]."""
    prefill_cu_q: Tensor
    """Running sum of the prefill rows' tokens from 0, int32 [P + 1]."""
    prefill_block_tables: Tensor
    """int32 [P, M]."""
    prefill_seq_lens: Tensor
    """int32 [P]."""
    sample_indices: Tensor | None
    """Token rows whose logits are wanted, int64 [S]; None for all of them."""
    dp_sizes: tuple[int, ...] = ()
    """Checked against this rank's own tokens; that every rank is given the same ones is the caller's promise."""
    media: MediaRows | None = None
    """Rows of images in the place of some tokens; only models loaded with vision read it."""
    states: StateRows | None = None
    """Where each row's running state lies; only models with state groups read it."""
    features: Tensor | None = None
    """What a draft begins from: its target's features [T, F], or the hidden states of its last step [T, D]."""
