"""Which columns of a head turn, in what pairs, and at which of a token's positions each pair turns."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Columns [first, first + 2 * pairs) of a head turn.

    Pairs are (2i, 2i+1), or with ``halves`` (i, i + pairs). Pair i turns by column ``column[i]`` of the table at the
    token's position on axis ``axis[i]``; both empty: one axis, column i.
    """

    first: int
    pairs: int
    halves: bool
    axis: tuple[int, ...] = ()
    column: tuple[int, ...] = ()

    def maps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(axis, column) as int32 [pairs] on ``device``."""
        return _maps(self, device)


@functools.lru_cache(maxsize=64)
def _maps(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    axis, column = layout.axis or (0,) * layout.pairs, layout.column or tuple(range(layout.pairs))
    return (
        torch.tensor(axis, dtype=torch.int32, device=device),
        torch.tensor(column, dtype=torch.int32, device=device),
    )


def multimodal(first: int, sections: tuple[int, ...], interleaved: bool) -> Layout:
    """Three axes (time, height, width) that share a head's pairs: in blocks, or taking turns while they last."""
    pairs = sum(sections)
    if not interleaved:
        axis = tuple(a for a, count in enumerate(sections) for _ in range(count))
        return Layout(first, pairs, True, axis, tuple(range(pairs)))
    # Qwen3-VL: every third pair from 1 is height's, from 2 width's, up to three times their count; the rest time's.
    axis = tuple(i % 3 if i % 3 and i < 3 * sections[i % 3] else 0 for i in range(pairs))
    return Layout(first, pairs, True, axis, tuple(range(pairs)))


def plane(pairs: int) -> Layout:
    """Two axes that take turns, each with the frequencies of a table half as wide (MoonViT's complex 2D form)."""
    return Layout(0, pairs, False, tuple(i % 2 for i in range(pairs)), tuple(i // 2 for i in range(pairs)))
