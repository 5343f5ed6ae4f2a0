"""Sampling: the distribution, the order of the filters, the random numbers, and both implementations token by token."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from ts_kernels import ContractError, platform
from ts_kernels.ops.sampling import reference, sample

IMPLS = ["reference", *(["native"] if platform.native_error() is None else [])]


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    first: int = 0,
    impl: str | None = "reference",
    min_p: float | None = None,
) -> Tensor:
    rows = logits.shape[0]
    return sample(
        logits,
        torch.full((rows,), temperature),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), top_p),
        torch.full((rows,), seed),
        torch.arange(first, first + rows),
        min_p=None if min_p is None else torch.full((rows,), min_p),
        impl=impl,
    )


def splitmix(z: int) -> int:
    """splitmix64 in Python's integers."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) % 2**64
    return z ^ z >> 31


@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 2**40))
def test_random_numbers(seed: int, position: int) -> None:
    want = (splitmix((splitmix(seed % 2**64) + position) % 2**64) >> 11) * 2.0**-53
    assert reference.uniform(torch.tensor([seed]), torch.tensor([position])).item() == want


def test_published_splitmix_values() -> None:
    """The first outputs of the generator for seed 1234567, as published with it."""
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(splitmix(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [(1.0, 0, 1.0, 6), (0.5, 0, 1.0, 6), (2.0, 3, 1.0, 3), (1.0, 0, 0.75, 3), (1.0, 4, 0.6, 2)],
)
def test_distribution(impl: str, temperature: float, top_k: int, top_p: float, kept: int) -> None:
    """Chi-square of 20000 draws against the probabilities written out here."""
    logits = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.9, -0.2])
    p = [math.exp(x / temperature) for x in logits.tolist()]
    order = sorted(range(6), key=lambda i: -p[i])
    if top_k:
        order = order[:top_k]
    total, mass, prefix = sum(p[i] for i in order), 0.0, []
    for i in order:
        prefix.append(i)
        mass += p[i] / total
        if mass >= top_p:
            break
    assert len(prefix) == kept
    count = 20000
    tokens = draw(logits.expand(count, -1).contiguous(), temperature, top_k, top_p, seed=11, impl=impl)
    seen = torch.bincount(tokens.long(), minlength=6).tolist()
    assert all(seen[i] == 0 for i in range(6) if i not in prefix)
    weight = sum(p[i] for i in prefix)
    chi = sum((seen[i] - count * p[i] / weight) ** 2 / (count * p[i] / weight) for i in prefix)
    # 99.9 % quantiles for 1 to 5 degrees of freedom.
    assert chi < {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52}[kept - 1]


@pytest.mark.parametrize("impl", IMPLS)
def test_top_k_comes_before_top_p(impl: str) -> None:
    """Masses 0.4, 0.3, 0.2, 0.1: top_k 2 renormalises to 0.57 and 0.43, so top_p 0.5 keeps one; else two."""
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.3]]).log().expand(500, -1).contiguous()
    assert set(draw(logits, top_k=2, top_p=0.5, impl=impl).tolist()) == {1}
    assert set(draw(logits, top_p=0.5, impl=impl).tolist()) == {1, 3}


@pytest.mark.parametrize("impl", IMPLS)
def test_min_p(impl: str) -> None:
    """Masses 0.4, 0.3, 0.2, 0.1 of 0.4: what is under min_p of the best goes; one stays whatever min_p is."""
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.3]]).log().expand(500, -1).contiguous()
    assert set(draw(logits, min_p=0.3, impl=impl).tolist()) == {0, 1, 3}
    assert set(draw(logits, min_p=0.6, impl=impl).tolist()) == {1, 3}
    assert set(draw(logits, min_p=0.6, top_k=1, impl=impl).tolist()) == {1}
    assert set(draw(logits, min_p=1.5, impl=impl).tolist()) == {1}
    assert set(draw(logits, min_p=0.0, impl=impl).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(7, 1.0, 0.0), (0, 0.7, 0.0), (0, 1.0, 0.15), (30, 0.9, 0.02)])
def test_the_filters_are_transformers(impl: str, top_k: int, top_p: float, min_p: float) -> None:
    """What transformers' warpers leave, one after another, is what is drawn from."""
    logits = 2 * torch.randn(1, 60, generator=torch.Generator().manual_seed(8))
    scores = logits / 0.8
    unused = torch.zeros(1, 1, dtype=torch.long)
    if top_k:
        scores = TopKLogitsWarper(top_k)(unused, scores)
    scores = TopPLogitsWarper(top_p)(unused, scores)
    scores = MinPLogitsWarper(min_p)(unused, scores)
    p, count = scores.double().softmax(-1)[0], 20000
    tokens = draw(logits.expand(count, -1).contiguous(), 0.8, top_k, top_p, impl=impl, min_p=min_p, seed=3)
    seen = torch.bincount(tokens.long(), minlength=60).double()
    assert seen[p == 0].sum() == 0
    assert seen[p * count > 30].min() > 0
    # every token that can come: the largest deviation, in standard deviations
    assert ((seen - count * p).abs() / (count * p + 1).sqrt()).max() < 4.5


@pytest.mark.parametrize("impl", IMPLS)
def test_greedy_and_ties(impl: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [-5.0, -5.0, -5.0, -5.0]])
    assert draw(logits, temperature=0.0, impl=impl).tolist() == [1, 0]
    assert set(draw(logits[:1].expand(300, -1).contiguous(), top_k=1, impl=impl).tolist()) == {1}
    assert draw(torch.zeros(300, 4), top_k=2, impl=impl).max() == 1


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits(impl: str, temperature: float) -> None:
    """NaN counts as -inf; a row without anything to choose gives -1."""
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [
            [nan, 1.0, nan, -inf],
            [nan, nan, nan, nan],
            [-inf, -inf, -inf, -inf],
            [nan, -inf, nan, -inf],
            [0.0, inf, nan, 2.0],
        ]
    )
    assert draw(logits, temperature, impl=impl).tolist() == [1, -1, -1, -1, 1]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_masked_token_is_never_drawn(impl: str) -> None:
    logits = torch.randn(2000, 9, generator=torch.Generator().manual_seed(0))
    logits[:, ::2] = -torch.inf
    assert (draw(logits, temperature=5.0, impl=impl) % 2 == 1).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_same_seed_and_position_same_token(impl: str) -> None:
    logits = torch.randn(40, 500, generator=torch.Generator().manual_seed(1))
    together = draw(logits, seed=5, impl=impl)
    alone = [draw(logits[i : i + 1], seed=5, first=i, impl=impl).item() for i in range(40)]
    assert together.tolist() == alone
    assert together.tolist() != draw(logits, seed=6, impl=impl).tolist()


@given(
    rows=st.sampled_from([0, 1, 6]),
    vocab=st.sampled_from([1, 2, 63, 100, 6144]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    top_k=st.sampled_from([-1, 0, 1, 5, 50, 10**6]),
    top_p=st.sampled_from([0.0, 0.1, 0.9, 1.0, 1.5]),
    min_p=st.sampled_from([None, 0.0, 0.05, 1.0]),
    coarse=st.booleans(),
)
def test_native_draws_what_the_reference_draws(
    isa: str, rows: int, vocab: int, temperature: float, top_k: int, top_p: float, min_p: float | None, coarse: bool
) -> None:
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    logits = logits.round() if coarse else logits
    have = draw(logits, temperature, top_k, top_p, seed=99, impl="native", min_p=min_p)
    want = draw(logits, temperature, top_k, top_p, seed=99, min_p=min_p)
    for row in (have != want).nonzero().flatten().tolist():
        # Only a number that falls on the boundary between two tokens, to the last bits of fp32, may differ.
        one = slice(row, row + 1)
        mass = reference.probabilities(
            logits[one],
            torch.tensor([temperature]),
            torch.tensor([top_k]),
            torch.tensor([top_p]),
            torch.tensor([min_p or 0.0]),
        ).cumsum(1)[0]
        target = reference.uniform(torch.tensor([99]), torch.tensor([row])) * mass[-1]
        gap = (mass[[have[row], want[row]]] - target).abs().min() / mass[-1]
        assert gap < 1e-6, f"row {row}: native drew {have[row]}, reference {want[row]}"


@pytest.mark.parametrize("top_p", [0.5, 0.9])
def test_a_flat_row_keeps_the_shortest_prefix(isa: str, top_p: float) -> None:
    """Hundreds of tokens are within an eighth of the weight that the mass ends at; draws show where it ends."""
    logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1)).expand(3000, -1).contiguous()
    have = draw(logits, 1.0, 0, top_p, seed=5, impl="native")
    kept = reference.probabilities(logits[:1], *(torch.tensor([x]) for x in (1.0, 0, top_p, 0.0)))[0] > 0
    assert bool(kept[have.long()].all())
    assert torch.equal(have, draw(logits, 1.0, 0, top_p, seed=5))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": math.nan}, "temperature must be finite"),
        ({"temperature": math.inf}, "temperature must be finite"),
        ({"temperature": -math.inf}, "temperature must be finite"),
        ({"top_p": math.nan}, "top_p must be a number"),
        ({"min_p": math.nan}, "min_p must be a number"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(each_kernel: str, changed: dict[str, float], message: str) -> None:
    logits = torch.randn(3, 20)
    draw(logits, impl=each_kernel)
    for impl in (each_kernel, None):  # None: the shortcut, where there is one
        with pytest.raises(ContractError, match=f"sampling.sample: {message}"):
            draw(logits, impl=impl, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{"top_p": -1.0}, {"top_p": 0.0}, {"min_p": math.inf}, {"temperature": -3.0}])
def test_the_strictest_parameters_leave_the_best(each_kernel: str, changed: dict[str, float]) -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(draw(logits, impl=each_kernel, **changed), logits.argmax(1).int())  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{"top_p": math.inf}, {"min_p": -1.0}, {"top_k": -5}, {"top_k": 2**31 - 1}])
def test_parameters_beyond_off_are_off(each_kernel: str, changed: dict[str, float]) -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draw(logits, impl=each_kernel, **changed), draw(logits, impl=each_kernel))  # type: ignore[arg-type]
