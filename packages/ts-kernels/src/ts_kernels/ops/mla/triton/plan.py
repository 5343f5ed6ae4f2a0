"""How decode's keys are shared out: worked out on the device, from lengths that the host need not know.

A launch has a fixed number of programs, so that a captured graph replays for any lengths. Each program works out the
plan for itself, a few instructions on a vector of the batch's lengths: the tiles of all rows over the programs at hand
give the tiles of a split, and a row gets as many splits as it needs. Long rows so take more programs than short ones.
"""

import functools

import torch
import triton
import triton.language as tl


@triton.jit
def plan(lengths, B, chunks, BATCH: tl.constexpr, TILE: tl.constexpr):
    """(tiles a split holds, each row's splits, where each row's splits end) of the ``B`` rows."""
    row = tl.arange(0, BATCH)
    tiles = tl.cdiv(tl.load(lengths + row, mask=row < B, other=0), TILE)
    # Two tiles at least: what a split costs besides, its queries and its partial result, is about one tile's bytes.
    per_split = tl.maximum(tl.cdiv(tl.sum(tiles, 0), chunks), 2)
    splits = tl.cdiv(tiles, per_split)
    return per_split, splits, tl.cumsum(splits, 0)


@triton.jit
def at(values, row, BATCH: tl.constexpr):
    """``values[row]`` of a vector in registers."""
    return tl.sum(tl.where(tl.arange(0, BATCH) == row, values, 0), 0)


def programs(batch: int, row_blocks: int, device: torch.device) -> tuple[int, int]:
    """(programs of a launch, the chunks among which they share all tiles).

    Rounding up costs a row at most one split more than its share, so ``batch + chunks`` programs suffice; they are
    kept to one wave where the batch leaves room for it.
    """
    slots = max(multiprocessors(device) // row_blocks, 1)
    chunks = max(slots - batch, slots // 2, 1)
    return batch + chunks, chunks


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Blocks that run at once, one on each multiprocessor; a few where Triton is interpreted."""
    if device.type != "cuda":
        return 12
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
