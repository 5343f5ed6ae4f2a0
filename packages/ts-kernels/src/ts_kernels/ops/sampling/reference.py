"""Sampling in plain torch, in fp64; every step's order and the random numbers are part of the contract."""

import torch
from torch import Tensor

from .parameters import check_draw

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_STREAM = 0xD1B54A32D192ED03 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 taken as unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    """One step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), modulo 2^64 in int64."""
    z = x + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """A number in [0, 1) of each (seed, position), fp64 with 53 random bits; they may broadcast."""
    return _shift_right(_splitmix(_splitmix(seeds) + positions), 11).double() * 2.0**-53


def stream(seeds: Tensor, number: int) -> Tensor:
    """Seeds of another sequence of numbers for the same requests, independent of ``uniform(seeds, ...)`` itself."""
    return _splitmix(seeds + number * _STREAM)


def probabilities(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor | None = None
) -> Tensor:
    """The filtered, not renormalised distribution that is drawn from, fp64 [B, V]; NaN logits count as -inf.

    Rows of temperature 0 are computed at temperature 1.
    """
    vocab = logits.shape[1]
    usable = torch.where(logits.isnan(), -torch.inf, logits).double()
    heat = torch.where(temperature > 0, temperature, torch.ones_like(temperature)).double()[:, None]
    # Differences before the division: they are exact, and an infinite maximum leaves its ties at probability one.
    peak = usable.max(dim=1, keepdim=True).values
    exponents = torch.where(usable == peak, 0.0, (usable - peak) / heat)
    weights = torch.where(peak == -torch.inf, 0.0, exponents.exp())
    ordered, index = weights.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(vocab, device=logits.device)[None]
    limit = torch.where(top_k > 0, top_k, vocab)[:, None]
    ordered = torch.where(rank < limit, ordered, 0.0)
    before = ordered.cumsum(1) - ordered
    # A token stays while the mass ahead of it is short of top_p: the shortest prefix that reaches it, one at least.
    wanted = torch.where(top_p < 1, top_p.double(), torch.inf)[:, None] * ordered.sum(1, keepdim=True)
    ordered = torch.where((before < wanted) | (rank == 0), ordered, 0.0)
    if min_p is not None:  # weights are relative to the highest, which therefore stays
        ordered = torch.where(ordered >= min_p.double().clamp(max=1)[:, None], ordered, 0.0)
    return torch.zeros_like(weights).scatter_(1, index, ordered)


def argmax(logits: Tensor) -> Tensor:
    """The highest logit of each row, the lowest index of equals; -1 where nothing is above minus infinity."""
    usable = torch.where(logits.isnan(), -torch.inf, logits)
    peak = usable.max(dim=1, keepdim=True).values
    best = (usable == peak).int().argmax(dim=1)
    return torch.where(peak[:, 0] == -torch.inf, -1, best).int()


def draw(weights: Tensor, numbers: Tensor) -> Tensor:
    """Inverse CDF in index order: the first token whose cumulated weight exceeds its share ``numbers`` of the sum."""
    mass = weights.cumsum(1)
    return (mass > numbers[:, None] * mass[:, -1:]).int().argmax(dim=1)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    min_p: Tensor | None = None,
) -> Tensor:
    """Greedy where the temperature is 0, else inverse CDF over the kept tokens in index order."""
    check_draw("sampling.sample", temperature, top_p, min_p)
    return choose(logits, temperature, top_k, top_p, seeds, positions, min_p)


def choose(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    min_p: Tensor | None,
) -> Tensor:
    """``sample`` with parameters that have been checked."""
    greedy = argmax(logits)
    drawn = draw(probabilities(logits, temperature, top_k, top_p, min_p), uniform(seeds, positions))
    return torch.where((temperature > 0) & (greedy >= 0), drawn, greedy).int()
