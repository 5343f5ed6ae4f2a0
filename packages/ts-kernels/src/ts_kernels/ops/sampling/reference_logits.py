"""What is done to logits before a draw, and read from them after it, in plain torch.

Legend: B rows, V vocabulary, S slots, N entries, W words of a mask.
"""

import torch
from torch import Tensor

from .parameters import check_penalties

IN_PROMPT = -(2**15)
MOST = 2**15 - 1


def count_tokens(counts: Tensor, slots: Tensor, tokens: Tensor, prompt: bool) -> None:
    """Mark a slot's tokens as of its prompt, or add one for each; negative slots and tokens are skipped."""
    used = (slots[:, None] >= 0) & (tokens >= 0)
    row, token = slots[:, None].expand_as(tokens)[used], tokens[used].long()
    if prompt:
        counts[row, token] |= IN_PROMPT
        return
    wide = counts.int()
    marked = wide & 0x8000
    wide &= MOST
    wide.index_put_((row, token), torch.ones_like(token, dtype=torch.int32), accumulate=True)
    counts.copy_((wide.clamp(max=MOST) | marked).to(torch.int16))


def apply_penalties(
    logits: Tensor, counts: Tensor, slots: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> None:
    """Repetition over prompt and output, then frequency and presence over the output; in place."""
    check_penalties("sampling.apply_penalties", slots, repetition, presence, frequency)
    rows = (slots >= 0).nonzero()[:, 0]
    seen = counts[slots[rows]].int()
    made = seen & MOST
    x = logits[rows]
    factor = torch.where(seen != 0, repetition[rows][:, None], 1.0)
    x = torch.where(x > 0, x / factor, x * factor)
    x = x - frequency[rows][:, None] * made - presence[rows][:, None] * (made > 0)
    logits[rows] = x


def apply_bias(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """``logits[rows, tokens] += values`` in place; negative rows are padding."""
    used = rows >= 0
    logits.index_put_((rows[used].long(), tokens[used].long()), values[used], accumulate=True)


def apply_mask(logits: Tensor, mask: Tensor, rows: Tensor | None = None) -> None:
    """Minus infinity wherever the row's bit is 0; in place."""
    vocab = logits.shape[1]
    bits = (mask[:, :, None] >> torch.arange(32, device=mask.device, dtype=torch.int32)) & 1
    closed = bits.flatten(1)[:, :vocab] == 0
    if rows is not None:
        closed = closed[rows.clamp(min=0)] & (rows >= 0)[:, None]
    logits.masked_fill_(closed, -torch.inf)


def logprobs(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-softmax of ``tokens`` and of the best ``count``, and the rank of ``tokens``, in fp64."""
    usable = torch.where(logits.isnan(), -torch.inf, logits).double()
    peak = usable.max(dim=1, keepdim=True).values
    # Differences first: an infinite peak leaves its ties alone, and a row of minus infinity has no logarithm at all.
    gaps = torch.where(usable == peak, 0.0, usable - peak)
    table = torch.where(usable == -torch.inf, -torch.inf, gaps - gaps.exp().sum(1, keepdim=True).log())
    index = usable.sort(dim=1, descending=True, stable=True).indices
    there = tokens.clamp(min=0).long()[:, None]
    place = (index == there).int().argmax(dim=1) + 1
    chosen = torch.where(tokens >= 0, table.gather(1, there)[:, 0], -torch.inf)
    best = index[:, :count]
    return (
        chosen.float(),
        torch.where(tokens >= 0, place, 0).int(),
        best.int(),
        table.gather(1, best).float(),
    )
