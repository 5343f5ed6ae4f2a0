"""The draw in Triton: threshold search, then inverse CDF. Legend: R rows, S chunks, V vocabulary."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ....platform import interpreting
from ..._tensors import rows
from .keys import CHUNK, chunks
from .report import argmax
from .search import cut_kernel, draw_kernel, masses_kernel, pass_kernel

PASSES = 8
# Tokens whose digits are counted at once; in the interpreter an operation costs the same for any number.
TILE = CHUNK if interpreting() else 512


@dataclass(frozen=True)
class Parameters:
    """A draw's parameters; each set serves ``places`` rows, whose positions follow one another."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seeds: Tensor
    positions: Tensor
    min_p: Tensor | None
    places: int = 1

    @classmethod
    def of(
        cls,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        seeds: Tensor,
        positions: Tensor,
        min_p: Tensor | None,
        places: int = 1,
    ) -> "Parameters":
        """Dense copies where need be."""
        heat, k, p, seed, at = (t.contiguous() for t in (temperature, top_k, top_p, seeds, positions))
        return cls(heat, k, p, seed, at, None if min_p is None else min_p.contiguous(), places)

    @property
    def low(self) -> Tensor:
        """min_p, or anything where there is none."""
        return self.temperature if self.min_p is None else self.min_p


@dataclass(frozen=True)
class Kept:
    """What the filters leave of each row: logits above the key ``cuts`` and the first ``rooms`` at it.

    ``best`` is the row's highest token; ``above`` fp64 and ``ties`` int32 [R, S] are the weight above the cut and the
    count at it, by chunk.
    """

    best: Tensor
    cuts: Tensor
    rooms: Tensor
    above: Tensor
    ties: Tensor


def keep(logits: Tensor, p: Parameters) -> Kept:
    """Apply the filters to logits [R, V]."""
    (count, vocab), device = logits.shape, logits.device
    size = chunks(vocab)
    kept = Kept(
        argmax(logits),
        torch.empty((count,), dtype=torch.int64, device=device),
        torch.empty((count,), dtype=torch.int32, device=device),
        torch.empty((count, size), dtype=torch.float64, device=device),
        torch.empty((count, size), dtype=torch.int32, device=device),
    )
    _search(logits, p, kept, p.top_k, mass=False)
    # Masses are first of what top-k left, which top-p takes its share of; then of what is left in the end.
    _masses(logits, p, kept, None)
    _search(logits, p, kept, p.top_p, mass=True)
    _masses(logits, p, kept, p.min_p)
    return kept


def _search(logits: Tensor, p: Parameters, kept: Kept, limit: Tensor, *, mass: bool) -> None:
    (count, vocab), device = logits.shape, logits.device
    size = chunks(vocab)
    pad = triton.next_power_of_2(size)
    parts = torch.empty((PASSES, count, size, 16), dtype=torch.float32, device=device)
    prefixes = torch.empty((PASSES, count), dtype=torch.int64, device=device)
    sums = torch.empty((PASSES, count), dtype=torch.float64, device=device)
    shared = (logits, kept.best, p.temperature, limit, kept.cuts, kept.rooms, kept.above, kept.ties, parts, prefixes)
    sizes = (logits.stride(0), vocab, count, size, p.places)
    for turn in range(PASSES):
        pass_kernel[(count, size)](
            *shared, sums, *sizes, PASS=turn, MASS=mass, CHUNK=CHUNK, S_PAD=pad, TILE=TILE, num_warps=8
        )
    cut_kernel[(count,)](*shared, sums, *sizes, MASS=mass, S_PAD=pad, num_warps=4)


def _masses(logits: Tensor, p: Parameters, kept: Kept, min_p: Tensor | None) -> None:
    count, vocab = logits.shape
    low = p.temperature if min_p is None else min_p
    masses_kernel[(count, chunks(vocab))](
        logits, kept.best, p.temperature, low, kept.cuts, kept.above, kept.ties, logits.stride(0), vocab, chunks(vocab),
        p.places, HAS_MIN_P=min_p is not None, CHUNK=CHUNK, num_warps=8,
    )  # fmt: skip


def draw(logits: Tensor, p: Parameters, kept: Kept) -> Tensor:
    """A token of each row, -1 where there is nothing."""
    count, vocab = logits.shape
    size = chunks(vocab)
    out = torch.empty((count,), dtype=torch.int32, device=logits.device)
    draw_kernel[(count,)](
        logits, kept.best, p.temperature, p.low, p.seeds, p.positions, kept.cuts, kept.rooms, kept.above, kept.ties,
        out, logits.stride(0), vocab, size, p.places, HAS_MIN_P=p.min_p is not None, CHUNK=CHUNK,
        S_PAD=triton.next_power_of_2(size), num_warps=8,
    )  # fmt: skip
    return out


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
    p = Parameters.of(temperature, top_k, top_p, seeds, positions, min_p)
    if logits.shape[0] == 0:
        return torch.empty((0,), dtype=torch.int32, device=logits.device)
    return draw(logits, p, keep(logits, p))
