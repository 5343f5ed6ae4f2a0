"""The extra layer, run as a draft by ts-modeling, is as often right as the training code says it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ts_modeling import load_model
from ts_modeling.testing import Sequences, new_cache

from tools.train_miniature.evaluate import score
from tools.train_miniature.export import load_miniature
from tools.train_miniature.report import SAMPLE
from tools.train_miniature.tokenizer import EOS, load_encoding


def test_drafts_of_the_extra_layer_are_those_of_training(miniature: Path) -> None:
    """On a held-out text: as many drafts equal the target's own choice, and the text, as the training code counts."""
    ids = [EOS, *load_encoding(miniature / "tiktoken.model").encode_ordinary(SAMPLE.read_text())]
    given, following = ids[:-1], ids[1:]
    target = load_model(miniature, dtype="float32", final_states=True)
    rows = Sequences(2, len(given))
    logits, states = target.forward(rows.batch(prefills=[(1, given)]), new_cache(target, rows))
    draft = load_model(miniature, dtype="float32", draft="mtp")
    ahead = Sequences(2, len(given))
    batch = ahead.batch(prefills=[(0, following[:-1])])
    batch.features = states[:-1]
    drafted = draft.forward(batch, new_cache(draft, ahead))[0].argmax(-1)
    accepted = int((drafted == logits.argmax(-1)[1:]).sum())
    right = int((drafted == torch.tensor(following[1:])).sum())

    expected = score(load_miniature(miniature / "model.safetensors"), np.array(ids, np.uint16), window=len(ids))
    assert (accepted, right, len(drafted)) == pytest.approx(
        (expected.draft_matches_model, expected.draft_matches_text, expected.drafts), abs=1
    )
    measured = json.loads((miniature / "training.json").read_text())["model"]["mtp_acceptance"]
    assert accepted / len(drafted) == pytest.approx(measured, abs=0.05)
