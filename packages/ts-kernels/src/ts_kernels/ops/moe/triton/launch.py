"""Tile sizes of a grouped product. Legend: P pairs, E experts, N rows of a matrix, K columns, M pairs of a block.

Chosen from sizes that the host knows, so that a captured graph fits every choice of experts. They come from counting
and from what the compiler gives (registers, shared memory), not from a tuner: no GPU has run them yet.
"""

from dataclasses import dataclass

SPAN = 128
PROGRAMS = 528  # four for each multiprocessor of an H200


@dataclass(frozen=True)
class Launch:
    """block_m pairs by block_n rows; ``split`` parts of the columns."""

    block_m: int
    block_n: int
    split: int
    warps: int
    stages: int


def block_of(pairs: int, experts: int) -> int:
    """M: wide enough for an expert's usual share, as padding costs a whole product."""
    share = pairs / experts
    return 16 if share <= 12 else 32 if share <= 24 else 64 if share <= 256 else 128


def launch(kind: str, pairs: int, experts: int, n: int, k: int, *, gated: bool, roomy: bool) -> Launch:
    """Few pairs: narrow tiles, many programs, deep prefetch, as reading weights bounds it. Many: square tiles.

    ``roomy`` is a device with more than 200 KB of shared memory a multiprocessor.
    """
    block_m = block_of(pairs, experts)
    if block_m >= 64:
        # FP8 blocks hold a second sum, for which four warps have too few registers.
        return Launch(block_m, 128, 1, 8 if block_m == 128 or kind == "fp8-block" else 4, 3 if roomy else 2)
    block_n = 128 if n >= 4096 else 64
    programs = min(pairs, experts) * -(-n // block_n)
    split = 1
    while gated and split < 8 and programs * split < PROGRAMS and k // (2 * split) >= 4 * SPAN:
        split *= 2
    return Launch(block_m, block_n, split, 4, 4)
