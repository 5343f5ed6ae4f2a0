"""The threshold search of top-k and top-p in Triton: a radix search over the logits' order, without a sort.

Eight passes of four bits each narrow the key of the last token that stays; a pass sums, by the next four bits, how many
tokens (top-k) or how much weight (top-p) there is among those whose key begins as found so far. Each program sums its
chunk; the next pass adds the chunks up, every program for itself, so that no atomics are needed and the order of sums
is fixed. Equal keys at the end stay by index, lower first: a count of them is part of the result.

A row to which a filter does not apply costs a launch's empty program.

Legend: R rows, S chunks, V vocabulary; ``places`` rows share one set of parameters.
"""

import triton
import triton.language as tl

from .keys import key_of, load_logits, uniform, value_of, weight_of

EVERY = tl.constexpr(2147483647)  # ties without a limit


@triton.jit
def peak_of(logits, best):
    """A row's maximum; minus infinity where there is nothing."""
    return load_logits(logits, tl.maximum(best, 0), best >= 0)


@triton.jit
def limits_k(top_k, temperature, best, owner, V):
    """Whether the row's top-k is in force."""
    k = tl.load(top_k + owner)
    return (k > 0) & (k < V) & (tl.load(temperature + owner) > 0) & (best >= 0)


@triton.jit
def limits_p(top_p, temperature, best, owner):
    """Whether the row's top-p is in force."""
    return (tl.load(top_p + owner) < 1.0) & (tl.load(temperature + owner) > 0) & (best >= 0)


@triton.jit
def tie_room(ties, row, chunk, limit, S, S_PAD: tl.constexpr):
    """How many of the row's ``limit`` ties are left for this chunk."""
    s = tl.arange(0, S_PAD)
    before = tl.sum(tl.load(ties + row * S + s, mask=s < chunk, other=0), 0)
    return tl.maximum(limit - before, 0)


@triton.jit
def chunk_masses(above, ties, row, cut_weight, limit, S, S_PAD: tl.constexpr):
    """The kept weight of each of a row's chunks, fp64 [S_PAD]."""
    s = tl.arange(0, S_PAD)
    count = tl.load(ties + row * S + s, mask=s < S, other=0)
    room = tl.maximum(limit - (tl.cumsum(count, 0) - count), 0)
    tied = tl.minimum(count, room).to(tl.float64) * cut_weight.to(tl.float64)
    return tl.load(above + row * S + s, mask=s < S, other=0.0) + tied


@triton.jit
def narrow(parts, row, S, prefix, above, wanted, S_PAD: tl.constexpr):
    """Append the digit in which the sum, from the best down, reaches ``wanted``; add what is above it."""
    s, digit = tl.arange(0, S_PAD), tl.arange(0, 16)
    table = tl.load(parts + (row * S + s[:, None]) * 16 + digit[None, :], mask=s[:, None] < S, other=0.0)
    bins = tl.sum(table.to(tl.float64), 0)
    # sums from the best digit down: of those above each digit, and with it
    over = tl.sum(tl.where(digit[:, None] > digit[None, :], bins[:, None], 0.0), 0)
    reaches = (above + over + bins >= wanted) & (above + over + bins > 0)  # one token at least
    found = tl.max(tl.where(reaches, digit, 0), 0)
    return prefix * 16 + found, above + tl.sum(tl.where(digit == found, over, 0.0), 0)


@triton.jit
def wanted_of(
    limit, above, ties, row, owner, cuts, rooms, peak, heat, S, MASS: tl.constexpr, S_PAD: tl.constexpr
):  # fmt: skip
    """What the sum has to reach: k, or top_p of the weight that top-k kept."""
    wanted = tl.load(limit + owner).to(tl.float64)
    if MASS:
        weight = weight_of(value_of(tl.load(cuts + row)), peak, heat)
        # without a top-k the cut is no logit's key, and nothing is tied with it
        weight = tl.where(tl.load(cuts + row) == 0, 0.0, weight)
        wanted *= tl.sum(chunk_masses(above, ties, row, weight, tl.load(rooms + row), S, S_PAD), 0)
    return wanted


@triton.jit
def pass_kernel(
    logits, best, temperature, limit, cuts, rooms, above, ties, parts, prefixes, sums,
    stride, V, R, S, places, PASS: tl.constexpr, MASS: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Pass ``PASS`` over a chunk. parts fp32 [8, R, S, 16]; prefixes int64 and sums fp64 [8, R]."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    owner = row // places
    first = tl.load(best + row)
    active = limits_p(limit, temperature, first, owner) if MASS else limits_k(limit, temperature, first, owner, V)
    if active:
        heat, peak = tl.load(temperature + owner), peak_of(logits + row * stride, first)
        prefix = row * 0
        if PASS > 0:
            over = tl.full((), 0.0, tl.float64)
            if PASS > 1:
                prefix, over = tl.load(prefixes + (PASS - 1) * R + row), tl.load(sums + (PASS - 1) * R + row)
            wanted = wanted_of(limit, above, ties, row, owner, cuts, rooms, peak, heat, S, MASS, S_PAD)
            prefix, over = narrow(parts + (PASS - 1) * R * S * 16, row, S, prefix, over, wanted, S_PAD)
            if chunk == 0:
                tl.store(prefixes + PASS * R + row, prefix)
                tl.store(sums + PASS * R + row, over)
        lowest = tl.load(cuts + row) if MASS else row * 0
        digits = tl.arange(0, 16)
        total = tl.zeros((TILE, 16), tl.float32)
        for tile in range(0, CHUNK, TILE):
            index = chunk * CHUNK + tile + tl.arange(0, TILE)
            x = load_logits(logits + row * stride, index, index < V)
            key = key_of(x)
            member = (index < V) & (key >= lowest) & ((key >> (32 - 4 * PASS)) == prefix)
            digit = (key >> (28 - 4 * PASS)) & 15
            share = weight_of(x, peak, heat) if MASS else tl.full((TILE,), 1.0, tl.float32)
            share = tl.where(member, share, 0.0)
            total += tl.where(digit[:, None] == digits[None, :], share[:, None], 0.0)
        tl.store(parts + ((PASS * R + row) * S + chunk) * 16 + digits, tl.sum(total, 0))


@triton.jit
def cut_kernel(
    logits, best, temperature, limit, cuts, rooms, above, ties, parts, prefixes, sums,
    stride, V, R, S, places, MASS: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """The key of the last token that stays, and how many of the tokens with that key do."""
    row = tl.program_id(0).to(tl.int64)
    owner = row // places
    first = tl.load(best + row)
    if MASS:
        active = limits_p(limit, temperature, first, owner)
    else:
        active = limits_k(limit, temperature, first, owner, V)
        tl.store(cuts + row, row * 0)
        tl.store(rooms + row, EVERY)
    if active:
        heat, peak = tl.load(temperature + owner), peak_of(logits + row * stride, first)
        wanted = wanted_of(limit, above, ties, row, owner, cuts, rooms, peak, heat, S, MASS, S_PAD)
        prefix, over = tl.load(prefixes + 7 * R + row), tl.load(sums + 7 * R + row)
        cut, over = narrow(parts + 7 * R * S * 16, row, S, prefix, over, wanted, S_PAD)
        room = wanted - over
        if MASS:
            weight = weight_of(value_of(cut), peak, heat).to(tl.float64)
            room = tl.ceil(tl.minimum(tl.maximum(room / tl.maximum(weight, 1e-300), 1.0), 2147483647.0))
            old = tl.load(cuts + row)
            old_room = tl.load(rooms + row)
            room = tl.where(cut > old, room, tl.where(cut == old, tl.minimum(room, old_room.to(tl.float64)), old_room))
            cut = tl.maximum(cut, old)
        tl.debug_barrier()  # every thread has read the old values, or written the first ones
        tl.store(cuts + row, cut)
        tl.store(rooms + row, room.to(tl.int32))


@triton.jit
def masses_kernel(
    logits, best, temperature, min_p, cuts, above, ties, stride, V, S, places,
    HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A chunk's weight above the cut, fp64, and its tokens at the cut. A greedy row has one token, of weight one."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    owner = row // places
    first = tl.load(best + row)
    heat, peak = tl.load(temperature + owner), peak_of(logits + row * stride, first)
    index = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = index < tl.where(first >= 0, V, 0)
    x = load_logits(logits + row * stride, index, inside)
    key, cut = key_of(x), tl.load(cuts + row)
    weight = weight_of(x, peak, heat)
    keep = inside & (key > cut)
    if HAS_MIN_P:
        keep = keep & (weight >= tl.minimum(tl.load(min_p + owner), 1.0))
    share = tl.where(heat > 0, tl.where(keep, weight, 0.0), tl.where(inside & (index == first), 1.0, 0.0))
    tied = tl.where(inside & (key == cut), tl.where(heat > 0, 1, 0), 0)
    tl.store(above + row * S + chunk, tl.sum(share.to(tl.float64), 0))
    tl.store(ties + row * S + chunk, tl.sum(tied, 0))


@triton.jit
def cut_weight(cut, peak, heat, min_p, owner, HAS_MIN_P: tl.constexpr):
    """The weight that each token at the cut counts with: none where min_p drops it, or where there is no cut."""
    weight = tl.where((cut == 0) | (heat <= 0), 0.0, weight_of(value_of(cut), peak, heat))
    if HAS_MIN_P:
        weight = tl.where(weight >= tl.minimum(tl.load(min_p + owner), 1.0), weight, 0.0)
    return weight


@triton.jit
def kept_weights(
    logits, chunk, first, heat, peak, cut, room, min_p, owner, V, HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """The weights of a chunk's tokens, zero where the filters drop them; ``room`` ties are kept of this chunk's."""
    index = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = index < tl.where(first >= 0, V, 0)
    x = load_logits(logits, index, inside)
    key, weight = key_of(x), weight_of(x, peak, heat)
    tied = inside & (key == cut)
    keep = (inside & (key > cut)) | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= room))
    if HAS_MIN_P:
        keep = keep & (weight >= tl.minimum(tl.load(min_p + owner), 1.0))
    greedy = tl.where(inside & (index == first), 1.0, 0.0)
    return index, tl.where(heat > 0, tl.where(keep, weight, 0.0), greedy)


@triton.jit
def pick_chunk(masses, number, S_PAD: tl.constexpr):
    """The chunk in which the running sum exceeds ``number`` of the whole, the sum before it, what is to be exceeded."""
    s = tl.arange(0, S_PAD)
    target = number * tl.sum(masses, 0)
    running = tl.cumsum(masses, 0)
    last = tl.max(tl.where(masses > 0, s, 0), 0)
    chunk = tl.minimum(tl.min(tl.where((running > target) & (masses > 0), s, S_PAD), 0), last)
    before = tl.sum(tl.where(s < chunk, masses, 0.0), 0)
    return chunk, before, target


@triton.jit
def pick_token(index, weights, before, target, V):
    """The first token whose running sum exceeds the target, the last with a weight if none does."""
    running = before + tl.cumsum(weights.to(tl.float64), 0)
    last = tl.max(tl.where(weights > 0, index, 0), 0)
    return tl.minimum(tl.min(tl.where((running > target) & (weights > 0), index, V), 0), last)


@triton.jit
def draw_kernel(
    logits, best, temperature, min_p, seeds, positions, cuts, rooms, above, ties, out, stride, V, S, places,
    HAS_MIN_P: tl.constexpr, CHUNK: tl.constexpr, S_PAD: tl.constexpr,
):  # fmt: skip
    """Inverse CDF in index order: first the chunk, then the token."""
    row = tl.program_id(0).to(tl.int64)
    owner = row // places
    first = tl.load(best + row)
    heat, peak = tl.load(temperature + owner), peak_of(logits + row * stride, first)
    number = uniform(tl.load(seeds + owner), tl.load(positions + owner) + row % places)
    cut, limit = tl.load(cuts + row), tl.load(rooms + row)
    weight = cut_weight(cut, peak, heat, min_p, owner, HAS_MIN_P)
    chunk, before, target = pick_chunk(chunk_masses(above, ties, row, weight, limit, S, S_PAD), number, S_PAD)
    room = tie_room(ties, row, chunk, limit, S, S_PAD)
    index, weights = kept_weights(
        logits + row * stride, chunk, first, heat, peak, cut, room, min_p, owner, V, HAS_MIN_P, CHUNK
    )
    token = pick_token(index, weights, before, target, V)
    tl.store(out + row, tl.where(first >= 0, token, -1).to(tl.int32))
