"""Verification of drafts: what comes out is distributed as the target, whatever the drafts were."""

import math

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, platform, sampling
from ts_kernels.ops.sampling import reference

IMPLS = ["reference", *(["native"] if platform.native_error() is None else [])]
every = pytest.mark.parametrize("impl", IMPLS)
# 99.9 % quantiles of chi-square for up to 7 degrees of freedom.
QUANTILE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32}


def chi_square(tokens: Tensor, p: Tensor) -> float:
    """Against the distribution ``p``, tokens without weight must not come."""
    seen = torch.bincount(tokens.long(), minlength=len(p)).double()
    assert seen[p == 0].sum() == 0
    want = p[p > 0] * len(tokens)
    return float(((seen[p > 0] - want) ** 2 / want).sum())


def parameters(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 5) -> list[Tensor]:
    return [
        torch.full((rows,), temperature),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), top_p),
        torch.arange(rows) * 977 + seed,
        torch.arange(rows) % 50,
    ]


def drafted(count: int, q_logits: Tensor, draws: list[Tensor]) -> Tensor:
    """Drafts that a draft model draws with the request's own seeds and positions."""
    ones, off = torch.ones(count), torch.zeros(count, dtype=torch.int32)
    columns = [
        sampling.sample(q.expand(count, -1).contiguous(), ones, off, ones, draws[3], draws[4] + place)
        for place, q in enumerate(q_logits)
    ]
    return torch.stack(columns, 1)


TARGET = torch.tensor(
    [[0.3, 2.0, -1.0, 1.5, 0.9, -0.2], [1.0, 0.0, 2.0, 0.0, -1.0, 1.0], [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]]
)
DRAFT = torch.tensor([[1.0, 1.0, 0.0, 1.5, -0.5, 0.6], [2.0, 0.0, 0.0, 1.0, 1.0, 1.0]])


@every
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, 0, 1.0, 0.0), (0.6, 4, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (1.3, 0, 1.0, 0.2)],
)
def test_lossless(impl: str, greedy: bool, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Each place's tokens follow the target: accepted, redrawn and bonus tokens together."""
    count = 30000
    draws = parameters(count, temperature, top_k, top_p)
    low = torch.full((count,), min_p)
    drafts = drafted(count, DRAFT, draws)
    probs = None if greedy else DRAFT.softmax(-1).expand(count, -1, -1).contiguous()
    counts = torch.full((count,), 2, dtype=torch.int32)
    logits = TARGET.expand(count, -1, -1).contiguous()
    accepted, bonus = sampling.verify(logits, drafts, counts, probs, *draws, min_p=low, impl=impl)
    one = [t[:3] for t in draws[:3]]
    target = reference.probabilities(TARGET, *one, low[:3])
    target = target / target.sum(1, keepdim=True)
    for place in range(3):
        there = accepted >= place
        stood = drafts[there, place] if place < 2 else bonus[there]
        tokens = torch.where(accepted[there] > place, stood, bonus[there])
        freedom = int((target[place] > 0).sum()) - 1
        assert chi_square(tokens, target[place]) < QUANTILE[freedom], f"place {place}"
    if not greedy:  # and as many stand as can: the overlap of the distributions
        overlap = torch.minimum(target[0], DRAFT[0].double().softmax(-1)).sum()
        assert abs((accepted > 0).double().mean() - overlap) < 4 * (0.25 / count) ** 0.5


def test_always_accepting_is_caught() -> None:
    """The test above can fail: the drafts themselves do not follow the target."""
    drafts = drafted(30000, DRAFT, parameters(30000))
    assert chi_square(drafts[:, 0], TARGET[0].double().softmax(-1)) > 10 * QUANTILE[5]


@every
def test_without_probabilities_the_tokens_are_those_of_sampling(impl: str) -> None:
    """Whatever the drafts, a request gets what it would get alone, token by token."""
    rows, vocab = 40, 50
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(rows, 4, vocab, generator=generator)
    draws = parameters(rows, 0.9, 20, 0.9)
    alone = [sampling.sample(logits[:, j].contiguous(), *draws[:4], draws[4] + j, impl=impl) for j in range(4)]
    plain = torch.stack(alone, 1)
    drafts = plain[:, :3].clone()
    wrong = torch.rand(rows, 3, generator=generator) < 0.3
    drafts[wrong] = (drafts[wrong] + 1) % vocab
    counts = torch.arange(rows, dtype=torch.int32) % 4
    accepted, bonus = sampling.verify(logits, drafts, counts, None, *draws, impl=impl)
    for row in range(rows):
        want = 0
        while want < counts[row] and not wrong[row, want]:
            want += 1
        assert accepted[row] == want
        assert bonus[row] == plain[row, want]


@every
@pytest.mark.parametrize("greedy", [False, True])
def test_temperature_zero(impl: str, greedy: bool) -> None:
    rows, vocab = 60, 30
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(rows, 3, vocab, generator=generator)
    best = logits.argmax(-1).int()
    probs = torch.randn(rows, 2, vocab, generator=generator).softmax(-1)
    drafts = best[:, :2].clone()
    drafts[::3, 0] = (drafts[::3, 0] + 1) % vocab
    drafts[1::3, 1] = (drafts[1::3, 1] + 1) % vocab
    counts = torch.full((rows,), 2, dtype=torch.int32)
    draws = parameters(rows, 0.0)
    accepted, bonus = sampling.verify(logits, drafts, counts, None if greedy else probs, *draws, impl=impl)
    assert accepted.tolist() == [0, 1, 2] * 20
    assert bonus.tolist() == [int(best[row, row % 3]) for row in range(rows)]


@every
@pytest.mark.parametrize("greedy", [False, True])
def test_a_place_without_anything_to_choose(impl: str, greedy: bool) -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 0] = torch.nan
    logits[1, 2] = -torch.inf
    logits[1, :2, 1] = 50.0
    drafts, counts = torch.ones(2, 2, dtype=torch.int32), torch.full((2,), 2, dtype=torch.int32)
    probs = None if greedy else torch.full((2, 2, 4), 0.25)
    accepted, bonus = sampling.verify(logits, drafts, counts, probs, *parameters(2), impl=impl)
    assert (accepted.tolist(), bonus.tolist()) == ([0, 2], [-1, -1])


@every
def test_a_draft_that_knows_the_target(impl: str) -> None:
    """q = p: everything stands, and the bonus is what sampling draws."""
    logits = torch.randn(50, 3, 40, generator=torch.Generator().manual_seed(6))
    draws = parameters(50)
    probs = logits[:, :2].double().softmax(-1).float()
    drafts = torch.stack([sampling.sample(logits[:, j].contiguous(), *draws[:4], draws[4] + j) for j in range(2)], 1)
    counts = torch.full((50,), 2, dtype=torch.int32)
    accepted, bonus = sampling.verify(logits, drafts, counts, probs * (1 - 1e-6), *draws, impl=impl)
    assert accepted.tolist() == [2] * 50
    plain = sampling.sample(logits[:, 2].contiguous(), *draws[:4], draws[4] + 2, impl=impl)
    assert torch.equal(bonus, plain)


@pytest.mark.parametrize("vocab", [3, 100, 6144])
@pytest.mark.parametrize("greedy", [False, True])
def test_native_does_what_the_reference_does(isa: str, vocab: int, greedy: bool) -> None:
    rows, k = 30, 3
    generator = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(rows, k + 1, vocab, generator=generator)
    near = logits[:, :k] + 0.5 * torch.randn(rows, k, vocab, generator=generator)
    probs = near.softmax(-1)
    drafts = torch.multinomial(probs.view(-1, vocab), 1, generator=generator).view(rows, k).int()
    counts = torch.arange(rows, dtype=torch.int32) % (k + 1)
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (0.7, 0, 0.9), (1.0, 40, 0.95), (0.0, 0, 1.0)):
        draws = parameters(rows, temperature, top_k, top_p)
        low = torch.full((rows,), 0.01)
        arguments = (logits, drafts, counts, None if greedy else probs, *draws)
        have = sampling.verify(*arguments, min_p=low, impl="native")
        want = sampling.verify(*arguments, min_p=low, impl="reference")
        assert torch.equal(have.accepted, want.accepted)
        assert torch.equal(have.bonus, want.bonus)


@every
def test_empty_batch(impl: str) -> None:
    drafts, counts = torch.empty(0, 2, dtype=torch.int32), torch.empty(0, dtype=torch.int32)
    accepted, bonus = sampling.verify(torch.empty(0, 3, 5), drafts, counts, None, *parameters(0), impl=impl)
    assert accepted.shape == bonus.shape == (0,)


@pytest.mark.parametrize(("name", "value"), [("temperature", math.inf), ("top_p", math.nan), ("min_p", math.nan)])
def test_parameters_that_mean_nothing_are_refused(each_kernel: str, name: str, value: float) -> None:
    logits, drafts, counts = torch.randn(2, 3, 6), torch.zeros(2, 2, dtype=torch.int32), torch.full((2,), 2).int()
    names = ("temperature", "top_k", "top_p", "seeds", "positions")
    given = dict(zip(names, parameters(2), strict=True))
    given[name] = torch.tensor([1.0, value])
    with pytest.raises(ContractError, match=f"sampling.verify: {name} must be"):
        sampling.verify(logits, drafts, counts, None, **given, impl=each_kernel)


def test_drafts_of_probability_nan_fall(each_kernel: str) -> None:
    """And are not drawn again."""
    q = torch.zeros(1, 2, 6)
    q[0, 0, 4] = math.nan
    drafts, counts = torch.tensor([[4, 1]], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    logits = torch.full((1, 3, 6), -math.inf)
    logits[..., 2], logits[..., 4] = 1.0, 40.0
    accepted, bonus = sampling.verify(logits, drafts, counts, q, *parameters(1), impl=each_kernel)
    assert (accepted.item(), bonus.item()) == (0, 2)
