"""Choice of experts, one program a token. Legend: E experts, G groups, S experts of a group, k experts a token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tensors import rows

NEVER = tl.constexpr(float("-inf"))


@triton.jit
def is_number(x):
    """Not NaN."""
    return x == x  # noqa: PLR0124


@triton.jit
def largest(values, ids, inside):
    """The id of the largest of [G, S] values, the lowest on ties; NaN where nothing else is left."""
    best = tl.max(tl.max(tl.where(inside & is_number(values), values, NEVER), 1), 0)
    first = tl.min(tl.min(tl.where(inside & (values == best), ids, 1 << 30), 1), 0)
    any_left = tl.min(tl.min(tl.where(inside, ids, 1 << 30), 1), 0)
    return tl.where(first == 1 << 30, any_left, first)


@triton.jit
def or_nan(all, factor):
    """``factor``, or NaN where the sum of a row is."""
    return tl.where(is_number(all), factor, all)


@triton.jit
def write_choice(weights, ids, row, chosen, values, factor, TOP_K: tl.constexpr, K: tl.constexpr):
    """Store a token's k ids and values times ``factor``."""
    place = tl.arange(0, K)
    tl.store(ids + row * TOP_K + place, chosen, mask=place < TOP_K)
    tl.store(weights + row * TOP_K + place, values * factor, mask=place < TOP_K)


@triton.jit
def open_groups(choice, inside, GROUPS: tl.constexpr, KEPT: tl.constexpr, SINGLE: tl.constexpr, G: tl.constexpr,
                S: tl.constexpr):  # fmt: skip
    """Which of the groups [G] have the ``KEPT`` largest sums of their two best, the lower one on ties."""
    group = tl.arange(0, G)
    top, at = tl.max(tl.where(inside, choice, NEVER), 1, return_indices=True)
    score = top
    if not SINGLE:
        score += tl.max(tl.where(inside & (tl.arange(0, S)[None, :] != at[:, None]), choice, NEVER), 1)
    score = tl.where(group < GROUPS, score, NEVER)
    kept = tl.zeros((G,), tl.int32)
    for _ in range(KEPT):
        left = (group < GROUPS) & (kept == 0)
        best = tl.max(tl.where(left, score, NEVER), 0)
        kept = tl.where(group == tl.min(tl.where(left & (score == best), group, 1 << 30), 0), 1, kept)
    return kept


@triton.jit
def sigmoid_kernel(
    logits, bias, weights, ids, stride, E, scale,
    TOP_K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, NORMALIZE: tl.constexpr, SINGLE: tl.constexpr,
    G: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Sigmoid scores as [G, S]; k times the best of those left."""
    row = tl.program_id(0).to(tl.int64)
    size = E // GROUPS
    group, place = tl.arange(0, G)[:, None], tl.arange(0, S)[None, :]
    inside = (group < GROUPS) & (place < size)
    expert = group * size + place
    score = tl.sigmoid(tl.load(logits + row * stride + expert, mask=inside, other=0.0))
    choice = score + tl.load(bias + expert, mask=inside, other=0.0)
    if KEPT < GROUPS:
        numbers = tl.where(is_number(choice), choice, NEVER)
        kept = open_groups(numbers, inside, GROUPS, KEPT, SINGLE, G, S)
        choice = tl.where(kept[:, None] > 0, choice, NEVER)
    all = tl.sum(tl.sum(tl.where(inside, score, 0.0), 1), 0)
    chosen = tl.zeros((K,), tl.int32)
    values = tl.zeros((K,), tl.float32)
    for j in range(TOP_K):
        best = largest(choice, expert, inside)
        value = tl.sum(tl.sum(tl.where(inside & (expert == best), score, 0.0), 1), 0)
        here = tl.arange(0, K) == j
        chosen, values = tl.where(here, best, chosen), tl.where(here, value, values)
        inside = inside & (expert != best)  # not by a lowest choice, which others may have
    factor = scale
    if NORMALIZE:
        factor = scale / (tl.sum(values, 0) + 1e-20)
    write_choice(weights, ids, row, chosen, values, or_nan(all, factor), TOP_K, K)


@triton.jit
def softmax_kernel(
    logits, weights, ids, stride, E, scale,
    TOP_K: tl.constexpr, NORMALIZE: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """k times the largest of the logits left."""
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, S)[None, :]
    inside = expert < E
    left = tl.load(logits + row * stride + expert, mask=inside, other=NEVER)
    power = tl.exp(left - tl.max(left))
    chosen = tl.zeros((K,), tl.int32)
    values = tl.zeros((K,), tl.float32)
    for j in range(TOP_K):
        best = largest(left, expert, inside)
        value = tl.sum(tl.sum(tl.where(inside & (expert == best), power, 0.0), 1), 0)
        here = tl.arange(0, K) == j
        chosen, values = tl.where(here, best, chosen), tl.where(here, value, values)
        inside = inside & (expert != best)
    all = tl.sum(power)
    total = tl.sum(values, 0) if NORMALIZE else all
    write_choice(weights, ids, row, chosen, values, or_nan(all, scale / total), TOP_K, K)


def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int, scale: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Sigmoid scores, biased choice within groups."""
    logits, bias = rows(logits), rows(bias)
    tokens, experts = logits.shape
    weights, ids = _empty(tokens, top_k, logits.device)
    size = experts // n_group
    if tokens:
        power = triton.next_power_of_2
        sigmoid_kernel[(tokens,)](
            logits, bias, weights, ids, logits.stride(0), experts, scale,
            TOP_K=top_k, GROUPS=n_group, KEPT=topk_group, NORMALIZE=normalize, SINGLE=size == 1,
            G=power(n_group), S=power(size), K=power(top_k), num_warps=warps(experts),
        )  # fmt: skip
    return weights, ids


def route_softmax(logits: Tensor, top_k: int, scale: float, normalize: bool) -> tuple[Tensor, Tensor]:
    """The largest logits, weighed by a softmax."""
    logits = rows(logits)
    tokens, experts = logits.shape
    weights, ids = _empty(tokens, top_k, logits.device)
    if tokens:
        power = triton.next_power_of_2
        softmax_kernel[(tokens,)](
            logits, weights, ids, logits.stride(0), experts, scale,
            TOP_K=top_k, NORMALIZE=normalize, S=power(experts), K=power(top_k), num_warps=warps(experts),
        )  # fmt: skip
    return weights, ids


def _empty(tokens: int, top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (tokens, top_k)
    return torch.empty(shape, dtype=torch.float32, device=device), torch.empty(shape, dtype=torch.int32, device=device)


def warps(experts: int) -> int:
    """One warp up to 256 experts: a choice is some 2k reductions over the row, which cost less within a warp."""
    return 1 if experts <= 256 else 2
