"""Sampling in Triton against the reference: in the interpreter, or on a GPU where there is one."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import sampling

Close = Callable[..., None]
# The interpreter computes unused lanes too, with NumPy, which warns of what a GPU does silently.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def logits_of(device: torch.device, rows: int, vocab: int, seed: int = 0) -> Tensor:
    return (3 * torch.randn(rows, vocab + 3, generator=torch.Generator().manual_seed(seed))).to(device)[:, 1:-2]


def parameters(device: torch.device, rows: int) -> list[Tensor]:
    """Every kind of row side by side: plain, greedy, top-k, top-p, both, and limits out of range."""
    heat = torch.tensor([1.0, 0.0, 0.7, 1.3, 0.8, 1.0])
    top_k = torch.tensor([0, 5, 50, 0, 40, -1]).int()
    top_p = torch.tensor([1.0, 0.5, 1.0, 0.9, 0.9, 0.0])
    made = [t.repeat(-(-rows // 6))[:rows] for t in (heat, top_k, top_p)]
    made += [torch.arange(rows) * 991 - 7, torch.arange(rows) + 3]
    return [t.to(device) for t in made]


@pytest.mark.parametrize(("vocab", "coarse"), [(5, True), (100, False), (9000, True)])
def test_sample(device: torch.device, vocab: int, coarse: bool) -> None:
    logits, draw = logits_of(device, 6, vocab), parameters(device, 6)
    if coarse:  # many ties
        logits = logits.round()
    want = sampling.sample(logits, *draw, impl="reference")
    assert torch.equal(sampling.sample(logits, *draw, impl="triton"), want)


def test_a_row_does_not_depend_on_its_batch(device: torch.device) -> None:
    logits, draw = logits_of(device, 6, 5000), parameters(device, 6)
    want = sampling.sample(logits, *draw, impl="reference")
    alone = sampling.sample(logits[4:5], *(t[4:5] for t in draw), impl="triton")
    assert alone.item() == want[4].item()


def test_min_p(device: torch.device) -> None:
    logits, draw = logits_of(device, 6, 300).round(), parameters(device, 6)
    low = torch.tensor([0.3, 0.3, 0.1, 0.05, 1.5, 0.0]).to(device)
    want = sampling.sample(logits, *draw, min_p=low, impl="reference")
    assert torch.equal(sampling.sample(logits, *draw, min_p=low, impl="triton"), want)


def test_unusable_logits(device: torch.device) -> None:
    nan, inf = math.nan, math.inf
    rows = [
        [nan, 1.0, nan, -inf],
        [nan] * 4,
        [-inf] * 4,
        [nan, -inf, nan, -inf],
        [0.0, inf, nan, 2.0],
        [-0.0, 0.0, -1.0, -2.0],
    ]
    logits = torch.tensor(rows, device=device)
    for heat in (0.0, 1.0):
        for k, p in ((0, 1.0), (2, 0.9))[: 1 + int(heat)]:
            draw = [
                torch.full((6,), heat),
                torch.full((6,), k).int(),
                torch.full((6,), p),
                torch.arange(6),
                torch.arange(6),
            ]
            draw = [t.to(device) for t in draw]
            want = sampling.sample(logits, *draw, impl="reference")
            assert torch.equal(sampling.sample(logits, *draw, impl="triton"), want)
    for x in (logits, logits.bfloat16()):
        assert sampling.argmax(x, impl="triton").tolist() == [1, -1, -1, -1, 1, 0]


@pytest.mark.parametrize("vocab", [1, 100, 9000])
def test_argmax(device: torch.device, vocab: int) -> None:
    logits = logits_of(device, 3, vocab).round()
    want = sampling.argmax(logits, impl="reference")
    assert torch.equal(sampling.argmax(logits, impl="triton"), want)


@pytest.mark.parametrize(("rows", "vocab", "n"), [(0, 9, 2), (3, 5, 5), (3, 100, 0), (2, 9000, 20)])
def test_logprobs(device: torch.device, assert_close: Close, rows: int, vocab: int, n: int) -> None:
    logits = logits_of(device, rows, vocab).round(decimals=1)
    tokens = (torch.arange(rows, dtype=torch.int32) * 4321 % vocab).to(device)
    tokens[rows - 1 :] = -1
    have = sampling.logprobs(logits, tokens, n, impl="triton")
    want = sampling.logprobs(logits, tokens, n, impl="reference")
    assert_close(have.chosen.nan_to_num(neginf=-9.0), want.chosen.nan_to_num(neginf=-9.0))
    assert_close(have.top_values, want.top_values)
    assert torch.equal(have.ranks, want.ranks)
    assert torch.equal(have.top_ids, want.top_ids)


def test_penalties(device: torch.device, assert_close: Close) -> None:
    logits = logits_of(device, 4, 5000)
    slots = torch.tensor([3, -1, 5, 0], device=device)
    tokens = torch.randint(-1, 90, (4, 150), generator=torch.Generator().manual_seed(1)).int().to(device)
    penalties = [torch.tensor(t, device=device) for t in ([1.3, 9.0, 1.0, 2.0], [0.5] * 4, [0.25, 1.0, 0.0, -0.5])]
    results = []
    for impl in ("reference", "triton"):
        counts, x = torch.zeros(6, 5000, dtype=torch.int16, device=device), logits.clone()
        sampling.count_tokens(counts, slots, tokens[:, :70] + 40, prompt=True, impl=impl)
        sampling.count_tokens(counts, slots, tokens, prompt=False, impl=impl)
        sampling.apply_penalties(x, counts, slots, *penalties, impl=impl)
        results.append((counts, x))
    assert torch.equal(results[0][0], results[1][0])
    assert_close(results[1][1], results[0][1])
    assert torch.equal(results[1][1][1], logits[1])


def test_bias_and_mask(device: torch.device) -> None:
    logits = logits_of(device, 4, 5001)
    rows, tokens = torch.tensor([0, 3, -1, 3]).int().to(device), torch.tensor([5000, 7, 10**9, 8]).int().to(device)
    values = torch.tensor([1.5, -math.inf, 3.0, -2.0], device=device)
    mask = torch.randint(-(2**31), 2**31, (3, 157), generator=torch.Generator().manual_seed(2)).int().to(device)
    results = []
    for impl in ("reference", "triton"):
        x = logits.clone()
        sampling.apply_bias(x, rows, tokens, values, impl=impl)
        sampling.apply_mask(x, mask, torch.tensor([2, -1, 0, 2], device=device), impl=impl)
        sampling.apply_mask(x[1:], mask, impl=impl)
        results.append(x)
    assert torch.equal(*results)
    assert not torch.equal(results[0], logits)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(("rows", "vocab"), [(12, 40), (2, 5000)])
def test_verify(device: torch.device, greedy: bool, rows: int, vocab: int) -> None:
    """Drafts near the target, so that some stand and some fall, in rows of every kind."""
    generator = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(rows, 3, vocab, generator=generator)
    probs = (logits[:, :2] + 0.4 * torch.randn(rows, 2, vocab, generator=generator)).softmax(-1)
    drafts = torch.multinomial(probs.view(-1, vocab), 1, generator=generator).view(rows, 2).int()
    counts = torch.tensor([2, 1, 0, 2]).repeat(rows)[:rows].int()
    draw = [t.roll(2) for t in parameters(device, rows)]
    given = (logits.to(device), drafts.to(device), counts.to(device), None if greedy else probs.to(device), *draw)
    have, want = (sampling.verify(*given, impl=impl) for impl in ("triton", "reference"))
    assert torch.equal(have.accepted, want.accepted)
    assert torch.equal(have.bonus, want.bonus)
    if rows > 2:
        assert set(want.accepted.tolist()) == {0, 1, 2}


def test_a_place_without_anything_to_choose(device: torch.device) -> None:
    logits = torch.zeros(2, 3, 4, device=device)
    logits[0, 0], logits[1, 2], logits[1, :2, 1] = torch.nan, -torch.inf, 50.0
    drafts, counts = torch.ones(2, 2, device=device).int(), torch.full((2,), 2, device=device).int()
    ones, zeros = torch.ones(2, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    for probs in (None, torch.full((2, 2, 4), 0.25, device=device)):
        given = (logits, drafts, counts, probs, ones, zeros.int(), ones, zeros, zeros)
        accepted, bonus = sampling.verify(*given, impl="triton")
        assert (accepted.tolist(), bonus.tolist()) == ([0, 2], [-1, -1])
