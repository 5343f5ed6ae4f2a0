"""Pairs sorted by expert, by counting. Legend: P pairs, E experts, B places of a block, C pairs of a chunk.

Up to one chunk of pairs (decode) one program does it all. Beyond, three kernels: counts of each chunk, their sums over
the chunks before, and the places. No atomics, so the order is that of the pairs, and nothing waits for the host.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..permutation import Permutation, capacity

CHUNK, TILE, CHUNKS = 128, 32, 64


@triton.jit
def load_ids(ids, pair, P, E):
    """Experts of these pairs, -1 for what is left out."""
    expert = tl.load(ids + pair, mask=pair < P, other=-1)
    return tl.where((expert >= 0) & (expert < E), expert, -1)


@triton.jit
def count_kernel(ids, counts, P, E, CHUNK: tl.constexpr, TILE: tl.constexpr):
    """counts[chunk, e] = pairs of expert e in the chunk."""
    chunk = tl.program_id(0)
    mine = load_ids(ids, chunk * CHUNK + tl.arange(0, CHUNK), P, E)
    for first in range(0, E, TILE):
        expert = first + tl.arange(0, TILE)
        count = tl.sum((mine[:, None] == expert[None, :]).to(tl.int32), 0)
        tl.store(counts + chunk * E + expert, count, mask=expert < E)


@triton.jit
def scan_kernel(counts, totals, chunks, E, CHUNKS: tl.constexpr, TILE: tl.constexpr):
    """counts[chunk, e] becomes the sum over the chunks before it; totals[e] that of all."""
    expert = tl.program_id(0) * TILE + tl.arange(0, TILE)
    before = tl.zeros((TILE,), tl.int32)
    for first in range(0, chunks, CHUNKS):
        chunk = first + tl.arange(0, CHUNKS)
        at = chunk[:, None] * E + expert[None, :]
        inside = (chunk[:, None] < chunks) & (expert[None, :] < E)
        count = tl.load(counts + at, mask=inside, other=0)
        tl.store(counts + at, before[None, :] + tl.cumsum(count, 0) - count, mask=inside)
        before += tl.sum(count, 0)
    tl.store(totals + expert, before, mask=expert < E)


@triton.jit
def place_kernel(
    ids, counts, totals, pairs, blocks, offsets, P, E, places,
    ALONE: tl.constexpr, B: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Where each pair of a chunk goes; ``ALONE`` where there is one chunk, which then also fills what stays free."""
    chunk = tl.program_id(0)
    if ALONE:
        for first in range(0, places, 1024):
            place = first + tl.arange(0, 1024)
            tl.store(pairs + place, tl.zeros((1024,), tl.int32) + P, mask=place < places)
            tl.store(blocks + place, tl.zeros((1024,), tl.int32) - 1, mask=place < places // B)
        tl.debug_barrier()
    pair = chunk * CHUNK + tl.arange(0, CHUNK)
    mine = load_ids(ids, pair, P, E)
    start = tl.zeros((CHUNK,), tl.int32)
    rank = tl.zeros((CHUNK,), tl.int32)
    end = 0
    for first in range(0, E, TILE):
        expert = first + tl.arange(0, TILE)
        match = (mine[:, None] == expert[None, :]).to(tl.int32)
        if ALONE:
            total, before = tl.sum(match, 0), tl.zeros((TILE,), tl.int32)
        else:
            total = tl.load(totals + expert, mask=expert < E, other=0)
            before = tl.load(counts + chunk * E + expert, mask=expert < E, other=0)
        padded = (total + B - 1) // B * B
        begin = end + tl.cumsum(padded, 0) - padded
        if chunk == 0:
            tl.store(offsets + expert, begin, mask=expert < E)
        start += tl.sum(match * begin[None, :], 1)
        rank += tl.sum(match * (before[None, :] + tl.cumsum(match, 0) - 1), 1)
        end += tl.sum(padded, 0)
    if chunk == 0:
        tl.store(offsets + E, end)
    here = mine >= 0
    tl.store(pairs + start + rank, pair, mask=here)
    tl.store(blocks + (start + rank) // B, mine, mask=here & (rank % B == 0))


def permute(ids: Tensor, experts: int, block: int) -> Permutation:
    """A counting sort, each expert's share padded to whole blocks."""
    ids, count = ids.contiguous(), ids.numel()
    places, alone = capacity(count, experts, block), count <= CHUNK
    offsets = ids.new_empty(experts + 1)
    pairs, blocks = (ids.new_empty(n) if alone else ids.new_full((n,), filler)
                     for n, filler in ((places, count), (places // block, -1)))  # fmt: skip
    chunks = max(triton.cdiv(count, CHUNK), 1)
    counts = totals = offsets
    if not alone:
        counts, totals = torch.empty((chunks, experts), dtype=torch.int32, device=ids.device), ids.new_empty(experts)
        count_kernel[(chunks,)](ids, counts, count, experts, CHUNK=CHUNK, TILE=TILE)
        scan_kernel[(triton.cdiv(experts, TILE),)](counts, totals, chunks, experts, CHUNKS=CHUNKS, TILE=TILE)
    place_kernel[(chunks,)](
        ids, counts, totals, pairs, blocks, offsets, count, experts, places,
        ALONE=alone, B=block, CHUNK=CHUNK, TILE=TILE,
    )  # fmt: skip
    return Permutation(pairs, offsets, blocks, block)
