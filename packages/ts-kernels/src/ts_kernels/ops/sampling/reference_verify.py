"""Rejection sampling of drafted tokens in plain torch, in fp64 (Leviathan et al., arXiv 2211.17192, algorithm 1).

Legend: B rows, K drafts, V vocabulary.
"""

import torch
from torch import Tensor

from .parameters import check_draw
from .reference import argmax, choose, draw, probabilities, stream, uniform

ACCEPTANCE, REPLACEMENT = 1, 2


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
    """How many of each row's drafts stand, and the token after them."""
    check_draw("sampling.verify", temperature, top_p, min_p)
    batch, places, vocab = logits.shape
    each = [None if t is None else t.repeat_interleave(places) for t in (temperature, top_k, top_p, seeds, min_p)]
    heat, k, p, seed, low = each
    assert heat is not None
    assert k is not None
    assert p is not None
    assert seed is not None
    at = (positions[:, None] + torch.arange(places, device=logits.device)).flatten()
    flat = logits.reshape(-1, vocab)
    own = choose(flat, heat, k, p, seed, at, low).view(batch, places)
    if draft_probs is None:
        return _compare(own, drafts, counts)
    target = probabilities(flat, heat, k, p, low)
    best = argmax(flat)
    greedy = torch.nn.functional.one_hot(best.clamp(min=0).long(), vocab).double()
    target = torch.where(heat[:, None] > 0, target, greedy)
    target = (target / target.sum(1, keepdim=True)).view(batch, places, vocab)
    usable = (best >= 0).view(batch, places)
    return _reject(target, usable, own, drafts, counts, draft_probs.double(), seeds, at.view(batch, places))


def _leading(stands: Tensor, counts: Tensor) -> Tensor:
    """The length of the prefix of the first ``counts`` that stand."""
    within = torch.arange(stands.shape[1], device=stands.device) < counts[:, None]
    return (stands & within).int().cumprod(1).sum(1)


def _compare(own: Tensor, drafts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """A draft stands where it is what would have been drawn without it."""
    accepted = _leading(own[:, :-1] == drafts, counts)
    return accepted.int(), own.gather(1, accepted[:, None])[:, 0]


def _reject(
    target: Tensor,
    usable: Tensor,
    own: Tensor,
    drafts: Tensor,
    counts: Tensor,
    draft_probs: Tensor,
    seeds: Tensor,
    at: Tensor,
) -> tuple[Tensor, Tensor]:
    """A draft x stands with probability min(1, p(x) / q(x)); the first that falls is redrawn from max(p - q, 0)."""
    numbers = uniform(stream(seeds, ACCEPTANCE)[:, None], at[:, :-1])
    there = drafts.clamp(min=0).long()[:, :, None]
    p, q = (t.gather(2, there)[:, :, 0] for t in (target[:, :-1], draft_probs))
    accepted = _leading((numbers * q < p) & (drafts >= 0) & usable[:, :-1], counts)
    rows = torch.arange(len(accepted), device=accepted.device)
    fell = accepted < counts
    # Where the draft knew the target exactly and still fell, to the last bits of a division, p itself is drawn from.
    there_p = target[rows, accepted]
    rest = there_p - draft_probs[rows, accepted.clamp(max=drafts.shape[1] - 1)]
    rest = torch.where(rest > 0, rest, 0.0)  # of NaN too
    rest = torch.where(rest.sum(1, keepdim=True) > 0, rest, there_p)
    redrawn = draw(rest, uniform(stream(seeds, REPLACEMENT), at[rows, accepted]))
    bonus = torch.where(fell & usable[rows, accepted], redrawn, own[rows, accepted])
    return accepted.int(), bonus.int()
