"""The order in which a grouped product takes its rows. Legend: T tokens, k experts a token, E experts, P = T * k."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Permutation:
    """(Token, choice) pairs in the order of their experts, each expert's share padded to whole blocks.

    pairs int32 [capacity]: the pair t * k + j at each place, P where there is none. offsets int32 [E + 1]: the first
    place of each expert, and the end. blocks int32 [capacity / block]: the expert of each block, -1 past the end.
    Within an expert, pairs are in ascending order. ``capacity`` follows from the sizes alone, so nothing waits for the
    device.
    """

    pairs: Tensor
    offsets: Tensor
    blocks: Tensor
    block: int


def capacity(pairs: int, experts: int, block: int) -> int:
    """Places that suffice for any choice of experts: each expert with pairs wastes less than a block."""
    return (pairs + min(pairs, experts) * (block - 1)) // block * block
