"""The recipe's parts: routing, the extra layer, the optimizer, the n-gram baseline, the schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.train_miniature.batches import Packed, Repeats, Stream
from tools.train_miniature.config import MiniConfig
from tools.train_miniature.model import Miniature
from tools.train_miniature.ngram import KneserNey
from tools.train_miniature.optim import make_slots, orthogonalize, update
from tools.train_miniature.tokenizer import PAD
from tools.train_miniature.train import Recipe

TINY = replace(
    MiniConfig(), vocab_size=97, hidden_size=64, num_hidden_layers=2, n_routed_experts=4, num_experts_per_tok=2,
    moe_intermediate_size=32, intermediate_size=64,
)  # fmt: skip


def test_head_loss_matches_cross_entropy() -> None:
    torch.manual_seed(0)
    model = Miniature(TINY)
    model.init_weights(torch.Generator().manual_seed(0))
    states, target = torch.randn(2, 5, 64, requires_grad=True), torch.randint(0, 97, (2, 5))
    weight = torch.ones(2, 5)
    weight[0, 3] = 0
    model.head_loss(states, target, weight, chunk=3).backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
    ours, states.grad = states.grad.clone(), None
    logits = model.head(states).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, target.flatten(), reduction="none")
    (losses * weight.flatten()).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours, states.grad, atol=1e-6, rtol=1e-4)


def test_learns_a_repeated_sequence() -> None:
    model = Miniature(TINY)
    model.init_weights(torch.Generator().manual_seed(0))
    slots = make_slots(model)
    ids = torch.arange(97).repeat(2)[None, :130]
    losses = []
    for step in range(1, 31):
        model.zero_grad(set_to_none=True)
        hidden = model.hidden(ids[:, :-1])
        loss = model.head_loss(hidden, ids[:, 1:], torch.ones(1, 129)) / 129
        states = model.mtp_hidden(hidden[:, :-1], ids[:, 1:-1])
        (loss + model.head_loss(states, ids[:, 2:], torch.ones(1, 128)) / 128).backward()  # type: ignore[no-untyped-call]
        for slot in slots:
            assert slot.param.grad is not None, slot.name
            update(slot, slot.param.grad, lr_scale=1.0, step=step)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_orthogonalize() -> None:
    matrices = torch.randn(2, 24, 63, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrices))
    assert singular.min() > 0.5
    assert singular.max() < 1.4


def test_kneser_ney_is_a_distribution() -> None:
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 7, 400)
    model = KneserNey(symbols, order=3, vocab=7)
    for context in ([1, 2], [6, 6], [0, 3]):
        total = sum(np.exp(-model.nats(np.array([*context, w]))[-1]) for w in range(7))
        assert total == pytest.approx(1.0, abs=1e-9)


def test_kneser_ney_learns() -> None:
    symbols = np.tile(np.arange(10), 50)
    assert KneserNey(symbols, order=3, vocab=10).nats(symbols)[5:].mean() < 0.2


def test_packed_rows_start_documents() -> None:
    docs = [np.full(n, n, dtype=np.uint16) for n in range(5, 60)]
    rows = Packed(docs, seed=0).take(8, 64)
    assert rows.shape == (8, 65)
    for row in rows:
        values = row[row != PAD]
        assert np.count_nonzero(values == values[0]) == values[0]


def test_repeated_rows_weigh_only_what_can_be_copied() -> None:
    ids, weight = Repeats(1000, seed=0).take(64)
    assert ids.shape == (1, 65)
    assert weight.shape == (1, 64)
    period = int((weight == 0).sum())
    assert 8 <= period < 22
    targets = np.flatnonzero(weight[0]) + 1
    assert (ids[0, targets] == ids[0, targets - period]).all()


def test_stream_rows_overlap_by_one() -> None:
    rows = Stream([np.arange(1000, dtype=np.uint16)], seed=0).take(15, 64)
    assert all((row == np.arange(row[0], row[0] + 65)).all() for row in rows)


def test_learning_rate_always_reaches_zero() -> None:
    recipe = Recipe(started=0.0, deadline=100.0)
    assert recipe.lr_scale(recipe.progress(10.0), 1000) == 1.0
    assert recipe.lr_scale(recipe.progress(100.0), 1000) == 0.0
    assert recipe.lr_scale(recipe.progress(5.0), 10) == 0.25
