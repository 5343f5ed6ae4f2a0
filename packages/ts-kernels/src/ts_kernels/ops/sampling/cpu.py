"""Native sampling (csrc/ops/sampling.cpp and its neighbours). Arguments have passed the public functions' checks."""

import torch
from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    min_p: Tensor | None = None,
) -> Tensor:
    """One token a row."""
    logits = rows(logits)
    count, vocab = logits.shape
    draw = _Parameters(temperature, top_k, top_p, seeds, positions, min_p)
    out = empty((count,), torch.int32)
    _native.sample(logits.data_ptr(), logits.stride(0), count, vocab, *draw.addresses, out.data_ptr())
    return out


def argmax(logits: Tensor) -> Tensor:
    """The highest logit's index."""
    logits = rows(logits)
    count, vocab = logits.shape
    out = empty((count,), torch.int32)
    _native.argmax(logits.data_ptr(), CODE[logits.dtype], logits.stride(0), count, vocab, out.data_ptr())
    return out


def verify(
    logits: Tensor,
    drafts: Tensor,
    counts: Tensor,
    draft_probs: Tensor | None,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    min_p: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How many drafts stand, and the token after them."""
    drafts, counts = drafts.contiguous(), counts.contiguous()
    draw = _Parameters(temperature, top_k, top_p, seeds, positions, min_p)
    count, places, vocab = logits.shape
    accepted, bonus = empty((count,), torch.int32), empty((count,), torch.int32)
    _native.verify(
        logits.data_ptr(),
        count,
        places,
        vocab,
        drafts.data_ptr(),
        counts.data_ptr(),
        0 if draft_probs is None else draft_probs.data_ptr(),
        *draw.addresses,
        accepted.data_ptr(),
        bonus.data_ptr(),
    )
    return accepted, bonus


def count_tokens(counts: Tensor, slots: Tensor, tokens: Tensor, prompt: bool) -> None:
    """Record tokens of prompts or outputs."""
    slots, tokens = slots.contiguous(), rows(tokens)
    pool, vocab = counts.shape
    count, size = tokens.shape
    stride = tokens.stride(0)
    addresses = (slots.data_ptr(), tokens.data_ptr())
    _native.count_tokens(counts.data_ptr(), pool, vocab, *addresses, stride, count, size, prompt)


def apply_penalties(
    logits: Tensor, counts: Tensor, slots: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> None:
    """Penalties, in place."""
    slots, repetition, presence, frequency = (t.contiguous() for t in (slots, repetition, presence, frequency))
    _native.apply_penalties(
        logits.data_ptr(),
        logits.stride(0),
        logits.shape[0],
        logits.shape[1],
        counts.data_ptr(),
        counts.shape[0],
        slots.data_ptr(),
        repetition.data_ptr(),
        presence.data_ptr(),
        frequency.data_ptr(),
    )


def apply_bias(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """Sparse biases, in place."""
    rows, tokens, values = (t.contiguous() for t in (rows, tokens, values))
    entries = (len(rows), rows.data_ptr(), tokens.data_ptr(), values.data_ptr())
    _native.apply_bias(logits.data_ptr(), logits.stride(0), logits.shape[0], logits.shape[1], *entries)


def apply_mask(logits: Tensor, mask: Tensor, rows: Tensor | None = None) -> None:
    """Close tokens, in place."""
    lines = None if rows is None else rows.contiguous()
    address = 0 if lines is None else lines.data_ptr()
    count, vocab = logits.shape
    _native.apply_mask(logits.data_ptr(), logits.stride(0), count, vocab, mask.data_ptr(), mask.shape[0], address)


def logprobs(logits: Tensor, tokens: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log probabilities and ranks of tokens, and the best ``n``."""
    logits, tokens = rows(logits), tokens.contiguous()
    count, vocab = logits.shape
    chosen, ranks = empty((count,), torch.float32), empty((count,), torch.int32)
    top_ids, top_values = empty((count, n), torch.int32), empty((count, n), torch.float32)
    results = (chosen, ranks, top_ids, top_values)
    addresses = (t.data_ptr() for t in results)
    _native.logprobs(logits.data_ptr(), logits.stride(0), count, vocab, tokens.data_ptr(), n, *addresses)
    return results


class _Parameters:
    """Parameters of a draw as the extension takes them; holds the tensors while their addresses are used."""

    def __init__(self, *parameters: Tensor | None) -> None:
        self._kept = [None if t is None else t.contiguous() for t in parameters]
        heat, top_k, top_p, seeds, positions, min_p = (0 if t is None else t.data_ptr() for t in self._kept)
        self.addresses = (heat, top_k, top_p, seeds, positions, min_p)


# Shortcuts that take the public arguments; see Operation.direct.
direct_sample = _native.direct_sample
