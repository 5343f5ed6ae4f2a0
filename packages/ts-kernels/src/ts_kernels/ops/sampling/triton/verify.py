"""Verification of drafts in Triton. Legend: B rows, K drafts, R = B (K+1) places, S chunks, V vocabulary."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .draw import Kept, Parameters, draw, keep
from .keys import CHUNK, chunks, stream, uniform
from .search import chunk_masses, cut_weight, kept_weights, peak_of, pick_chunk, pick_token, tie_room


@triton.jit
def compare_kernel(own, drafts, counts, accepted, bonus, K, K_PAD: tl.constexpr):
    """A draft stands where it is what would have been drawn without it."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, K_PAD)
    count = tl.load(counts + row)
    draft = tl.load(drafts + row * K + place, mask=place < K, other=-2)
    token = tl.load(own + row * (K + 1) + place, mask=place < K, other=-3)
    falls = (place >= count) | (draft != token)
    stands = tl.min(tl.where(falls, place, K), 0)
    tl.store(accepted + row, stands.to(tl.int32))
    tl.store(bonus + row, tl.load(own + row * (K + 1) + stands))


@triton.jit
def accept_kernel(
    logits, drafts, counts, draft_probs, best, temperature, min_p, seeds, positions, cuts, rooms, above, ties, accepted,
    V, S, K, HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """How many of a row's drafts stand: each with probability min(1, p / q), up to the first that falls."""
    row = tl.program_id(0).to(tl.int64)
    heat, count = tl.load(temperature + row), tl.load(counts + row)
    seed = stream(tl.load(seeds + row), 1)
    stands = 0
    alive = count > 0
    for place in range(K):
        at = row * (K + 1) + place
        draft, first = tl.load(drafts + row * K + place), tl.load(best + at)
        there = tl.maximum(draft, 0)
        chunk = there // CHUNK
        here = logits + at * V
        peak, cut, limit = peak_of(here, first), tl.load(cuts + at), tl.load(rooms + at)
        weight = cut_weight(cut, peak, heat, min_p, row, HAS_MIN_P)
        total = tl.sum(chunk_masses(above, ties, at, weight, limit, S, S_PAD), 0)
        room = tie_room(ties, at, chunk, limit, S, S_PAD)
        index, weights = kept_weights(here, chunk, first, heat, peak, cut, room, min_p, row, V, HAS_MIN_P, CHUNK)
        p = tl.sum(tl.where(index == there, weights, 0.0), 0).to(tl.float64)
        q = tl.load(draft_probs + (row * K + place) * V + there).to(tl.float64)
        number = uniform(seed, tl.load(positions + row) + place)
        alive = alive & (place < count) & (draft >= 0) & (first >= 0) & (number * q * total < p)
        stands += alive.to(tl.int32)
    tl.store(accepted + row, stands)


@triton.jit
def rest_kernel(
    logits, counts, draft_probs, best, temperature, min_p, cuts, rooms, above, ties, accepted, rests, V, S, K,
    HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """A chunk's sum of max(p - q, 0) at the place where the row's draft fell, fp64 [B, S]."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.load(accepted + row)
    if place < tl.load(counts + row):
        _, _, rest = _rest(
            logits, draft_probs, best, temperature, min_p, cuts, rooms, above, ties, row, place, chunk, V, S, K,
            HAS_MIN_P, CHUNK, S_PAD,
        )  # fmt: skip
        tl.store(rests + row * S + chunk, tl.sum(rest, 0))


@triton.jit
def _rest(
    logits, draft_probs, best, temperature, min_p, cuts, rooms, above, ties, row, place, chunk, V, S, K,
    HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """A chunk's indices, weights and max(p - q, 0)."""
    at = row * (K + 1) + place
    here, first, heat = logits + at * V, tl.load(best + at), tl.load(temperature + row)
    peak, cut, limit = peak_of(here, first), tl.load(cuts + at), tl.load(rooms + at)
    weight = cut_weight(cut, peak, heat, min_p, row, HAS_MIN_P)
    total = tl.sum(chunk_masses(above, ties, at, weight, limit, S, S_PAD), 0)
    room = tie_room(ties, at, chunk, limit, S, S_PAD)
    index, weights = kept_weights(here, chunk, first, heat, peak, cut, room, min_p, row, V, HAS_MIN_P, CHUNK)
    q = tl.load(draft_probs + (row * K + place) * V + index, mask=index < V, other=0.0).to(tl.float64)
    # a place without anything to choose has no total, and no weights that it would matter to
    p = weights.to(tl.float64) / tl.maximum(total, 1e-300)
    return index, weights, tl.where(p > q, p - q, 0.0)


@triton.jit
def redraw_kernel(
    logits, counts, draft_probs, best, temperature, min_p, seeds, positions, cuts, rooms, above, ties, accepted, rests,
    own, bonus, V, S, K, HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """The token after the accepted ones: drawn from max(p - q, 0) where a draft fell, else what sampling draws."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(accepted + row)
    at = row * (K + 1) + place
    token = tl.load(own + at)
    first = tl.load(best + at)
    if (place < tl.load(counts + row)) & (first >= 0):
        heat = tl.load(temperature + row)
        peak, cut, limit = peak_of(logits + at * V, first), tl.load(cuts + at), tl.load(rooms + at)
        weight = cut_weight(cut, peak, heat, min_p, row, HAS_MIN_P)
        s = tl.arange(0, S_PAD)
        masses = tl.load(rests + row * S + s, mask=s < S, other=0.0)
        # Where the draft knew the target exactly and fell by the last bits of a division, p itself is drawn from.
        exact = tl.sum(masses, 0) <= 0
        masses = tl.where(exact, chunk_masses(above, ties, at, weight, limit, S, S_PAD), masses)
        number = uniform(stream(tl.load(seeds + row), 2), tl.load(positions + row) + place)
        chunk, before, target = pick_chunk(masses, number, S_PAD)
        index, weights, rest = _rest(
            logits, draft_probs, best, temperature, min_p, cuts, rooms, above, ties, row, place, chunk, V, S, K,
            HAS_MIN_P, CHUNK, S_PAD,
        )  # fmt: skip
        token = pick_token(index, tl.where(exact, weights.to(tl.float64), rest), before, target, V).to(tl.int32)
    tl.store(bonus + row, token)


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
    batch, places, vocab = logits.shape
    drafts, counts = drafts.contiguous(), counts.contiguous()
    accepted = torch.empty((batch,), dtype=torch.int32, device=logits.device)
    bonus = torch.empty_like(accepted)
    if batch == 0:
        return accepted, bonus
    p = Parameters.of(temperature, top_k, top_p, seeds, positions, min_p, places=places)
    flat = logits.view(-1, vocab)
    kept = keep(flat, p)
    own = draw(flat, p, kept)
    if draft_probs is None:
        pad = triton.next_power_of_2(places)
        compare_kernel[(batch,)](own, drafts, counts, accepted, bonus, places - 1, K_PAD=pad, num_warps=1)
    else:
        _reject(flat, drafts, counts, draft_probs, p, kept, own, accepted, bonus)
    return accepted, bonus


def _reject(
    flat: Tensor,
    drafts: Tensor,
    counts: Tensor,
    draft_probs: Tensor,
    p: Parameters,
    kept: Kept,
    own: Tensor,
    accepted: Tensor,
    bonus: Tensor,
) -> None:
    batch, vocab = len(counts), flat.shape[1]
    size = chunks(vocab)
    rests = torch.empty((batch, size), dtype=torch.float64, device=flat.device)
    state = (kept.cuts, kept.rooms, kept.above, kept.ties, accepted)
    row = (kept.best, p.temperature, p.low)
    drawn = (*row, p.seeds, p.positions, *state)
    sizes = (vocab, size, p.places - 1)
    settings = {"HAS_MIN_P": p.min_p is not None, "CHUNK": CHUNK, "S_PAD": triton.next_power_of_2(size), "num_warps": 8}
    accept_kernel[(batch,)](flat, drafts, counts, draft_probs, *drawn, *sizes, **settings)
    rest_kernel[(batch, size)](flat, counts, draft_probs, *row, *state, rests, *sizes, **settings)
    redraw_kernel[(batch,)](flat, counts, draft_probs, *drawn, rests, own, bonus, *sizes, **settings)
