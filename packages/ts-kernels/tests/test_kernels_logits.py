"""Edits of logits and what is read from them: against transformers' processors, torch, and by hand."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor
from ts_kernels import ContractError, platform, sampling
from ts_kernels.ops.sampling.reference_logits import IN_PROMPT

IMPLS = ["reference", *(["native"] if platform.native_error() is None else [])]
every = pytest.mark.parametrize("impl", IMPLS)
Close = Callable[..., None]


def seeded(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def i32(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_argmax(each_kernel: str) -> None:
    nan, inf = math.nan, math.inf
    rows = [[1.0, 3.0, 3.0, 2.0], [nan, 1.0, nan, -inf], [nan] * 4, [-inf] * 4, [0.0, inf, nan, inf]]
    assert sampling.argmax(torch.tensor(rows), impl=each_kernel).tolist() == [1, 1, -1, -1, 1]
    assert sampling.argmax(torch.tensor(rows).bfloat16(), impl=each_kernel).tolist() == [1, 1, -1, -1, 1]
    for vocab in (1, 63, 100, 6144):
        wide = seeded(5, vocab + 9)[:, 4:-5]
        assert sampling.argmax(wide, impl=each_kernel).tolist() == wide.argmax(1).tolist()
    assert sampling.argmax(torch.empty(0, 7), impl=each_kernel).shape == (0,)


@every
def test_counts(impl: str) -> None:
    """Prompt and output apart, repeated tokens, padding, saturation."""
    counts = torch.zeros(4, 10, dtype=torch.int16)
    slots = torch.tensor([3, -1, 1])
    sampling.count_tokens(counts, slots, i32([5, 5, -1], [1, 2, 3], [9, 0, 9]), prompt=True, impl=impl)
    for _ in range(2):
        sampling.count_tokens(counts, slots, i32([5, 6, 5], [1, 2, 3], [-1, 0, 7]), prompt=False, impl=impl)
    want = torch.zeros(4, 10, dtype=torch.int16)
    want[3, 5], want[3, 6] = IN_PROMPT + 4, 2
    want[1, 9], want[1, 0], want[1, 7] = IN_PROMPT, IN_PROMPT + 2, 2
    assert torch.equal(counts, want)
    counts[1, 7] = 32766
    sampling.count_tokens(counts, slots[2:], i32([7, 7, 7]), prompt=False, impl=impl)
    assert counts[1, 7] == 32767
    sampling.count_tokens(counts, slots, torch.empty(3, 0, dtype=torch.int32), prompt=False, impl=impl)


def penalized(impl: str, logits: Tensor, prompt: Tensor, output: Tensor, *penalties: float) -> Tensor:
    """Penalties of rows in shuffled slots, counts of other slots poisoned."""
    rows, vocab = logits.shape
    slots = torch.randperm(rows + 3, generator=torch.Generator().manual_seed(7))[:rows]
    counts = torch.full((rows + 3, vocab), 77, dtype=torch.int16)
    counts[slots] = 0
    sampling.count_tokens(counts, slots, prompt, prompt=True, impl=impl)
    sampling.count_tokens(counts, slots, output, prompt=False, impl=impl)
    mine = logits.clone()
    sampling.apply_penalties(mine, counts, slots, *(torch.full((rows,), p) for p in penalties), impl=impl)
    return mine


def test_repetition_is_transformers(each_kernel: str, assert_close: Close) -> None:
    logits = seeded(3, 1000)
    generator = torch.Generator().manual_seed(1)
    prompt, output = (torch.randint(0, 1000, (3, n), generator=generator, dtype=torch.int32) for n in (40, 20))
    want = RepetitionPenaltyLogitsProcessor(1.3)(torch.cat((prompt, output), 1).long(), logits.clone())
    assert_close(penalized(each_kernel, logits, prompt, output, 1.3, 0.0, 0.0), want)
    assert not torch.equal(want, logits)


def test_presence_and_frequency_count_output_alone(each_kernel: str, assert_close: Close) -> None:
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence."""
    logits = seeded(2, 100)
    output = i32([7, 7, 7, 99], [3, -1, -1, -1])
    want = logits.clone()
    want[0, 7] -= 3 * 0.5 + 0.25
    want[0, 99] -= 0.5 + 0.25
    want[1, 3] -= 0.5 + 0.25
    assert_close(penalized(each_kernel, logits, i32([1, 2], [3, 4]), output, 1.0, 0.25, 0.5), want)


@every
def test_penalties_leave_free_rows_alone(impl: str) -> None:
    logits = seeded(2, 50)
    mine, counts = logits.clone(), torch.full((1, 50), 3, dtype=torch.int16)
    twos = torch.full((2,), 2.0)
    sampling.apply_penalties(mine, counts, torch.tensor([-1, 0]), twos, twos, twos, impl=impl)
    assert torch.equal(mine[0], logits[0])
    assert (mine[1] < logits[1]).all()


@every
def test_bias(impl: str) -> None:
    wide = seeded(3, 60)
    logits = wide.clone()[:, 5:55]
    want = logits.clone()
    want[0, 4] += 2.5
    want[2, 49] = -torch.inf
    entries = (i32(0, 2, -1), i32(4, 49, 10**9), torch.tensor([2.5, -torch.inf, 9.0]))
    sampling.apply_bias(logits, *entries, impl=impl)
    assert torch.equal(logits, want)
    sampling.apply_bias(logits, *(t[:0] for t in entries), impl=impl)
    assert torch.equal(logits, want)


@every
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 100, 5000])
def test_mask(impl: str, vocab: int) -> None:
    words = -(-vocab // 32)
    mask = torch.randint(-(2**31), 2**31, (4, words), generator=torch.Generator().manual_seed(2)).int()
    mask[1] = -1
    lines = torch.tensor([2, 1, -1, 3, 2])
    logits = seeded(5, vocab)
    have = logits.clone()
    sampling.apply_mask(have, mask, lines, impl=impl)
    for row, line in enumerate(lines.tolist()):
        for token in range(vocab):
            bit = line < 0 or int(mask[line, token // 32]) >> (token % 32) & 1
            assert have[row, token] == (logits[row, token] if bit else -torch.inf)
    plain = logits[:4].clone()
    sampling.apply_mask(plain, mask, impl=impl)
    again = logits[:4].clone()
    sampling.apply_mask(again, mask, torch.arange(4), impl=impl)
    assert torch.equal(plain, again)


@pytest.mark.parametrize("vocab", [5, 32, 70])
def test_token_lists(vocab: int) -> None:
    listed = torch.tensor([0, 4, vocab - 1])
    for allowed in (True, False):
        logits = torch.zeros(1, vocab)
        sampling.apply_mask(logits, sampling.pack_mask(listed, vocab, allowed=allowed)[None], impl="reference")
        opened = torch.zeros(vocab, dtype=torch.bool).index_fill_(0, listed, True)
        assert torch.equal(logits[0] == 0, opened == allowed)
    with pytest.raises(ContractError, match=r"tokens must be in \[0, 5\)"):
        sampling.pack_mask(torch.tensor([5]), 5, allowed=True)
    for size, said in ((2**31, "at most 2147483647"), (0, "at least 1")):
        with pytest.raises(ContractError, match=f"vocab must be {said}, got {size}"):
            sampling.pack_mask(torch.tensor([4]), size, allowed=True)


@pytest.mark.parametrize(("rows", "vocab", "n"), [(1, 1, 1), (3, 100, 0), (4, 100, 100), (5, 6144, 20), (0, 9, 2)])
def test_logprobs_are_torchs(each_kernel: str, assert_close: Close, rows: int, vocab: int, n: int) -> None:
    wide = seeded(rows, vocab + 3)
    logits = wide[:, 1:-2].round(decimals=2) if vocab < 1000 else wide[:, 1:-2]
    tokens = torch.arange(rows, dtype=torch.int32) * 7 % vocab
    have = sampling.logprobs(logits, tokens, n, impl=each_kernel)
    table = logits.double().log_softmax(-1)
    order = logits.sort(dim=1, descending=True, stable=True).indices
    assert_close(have.chosen, table.gather(1, tokens.long()[:, None])[:, 0].float())
    assert have.ranks.tolist() == [order[r].tolist().index(int(t)) + 1 for r, t in enumerate(tokens)]
    assert torch.equal(have.top_ids.long(), order[:, :n])
    assert_close(have.top_values, table.gather(1, order[:, :n]).float())


def test_logprobs_of_odd_rows(each_kernel: str) -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[nan, 1.0, 1.0, -inf], [-inf] * 4, [inf, 0.0, inf, nan], [0.0, 1.0, 2.0, 3.0]])
    have = sampling.logprobs(logits, i32(3, 1, 2, -1), 3, impl=each_kernel)
    half = math.log(0.5)
    assert have.chosen.tolist() == pytest.approx([-inf, -inf, half, -inf])
    assert have.ranks.tolist() == [4, 2, 2, 0]
    assert have.top_ids.tolist() == [[1, 2, 0], [0, 1, 2], [0, 2, 1], [3, 2, 1]]
    assert have.top_values[0].tolist() == pytest.approx([half, half, -inf])
    assert have.top_values[1].tolist() == [-inf] * 3
    assert have.top_values[2].tolist() == pytest.approx([half, half, -inf])


def test_penalties_that_mean_nothing_are_refused(each_kernel: str) -> None:
    """By name, of the rows that are penalized; the others' are not looked at."""
    counts, slots = torch.zeros(2, 10, dtype=torch.int16), torch.tensor([1, -1])
    off = {"repetition": torch.ones(2), "presence": torch.zeros(2), "frequency": torch.zeros(2)}
    for name, value in itertools.product(off, (math.nan, math.inf, -math.inf)):
        given = {**off, name: torch.tensor([1.0, value])}
        logits = seeded(2, 10)
        sampling.apply_penalties(logits, counts, slots, **given, impl=each_kernel)
        assert torch.equal(logits, seeded(2, 10))
        given[name] = torch.tensor([value, 1.0])
        with pytest.raises(ContractError, match=f"apply_penalties: {name} must be finite"):
            sampling.apply_penalties(logits, counts, slots, **given, impl=each_kernel)
