"""Puts a run's measurements into one JSON file and draws the loss curve."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .batches import load_docs
from .evaluate import by_position, score
from .export import load_miniature
from .tokenizer import EOS, load_encoding
from .train import EARLIER

SAMPLE = Path(__file__).parents[2] / "tests/miniature/held_out_sample.txt"
"""The start of a held-out file, small enough for a test to score again."""

WINDOW, FRESH = 512, 320
"""Scoring stays within the length of nearly all training rows; ``by_position`` tells what lies beyond."""

GAP_SECONDS = 120.0
"""A longer silence in the log is a stop, not training."""


def measure(folder: Path, weights: Path) -> None:
    """Write ``scores.json``: the exported checkpoint on the held-out text."""
    facts = json.loads((folder / "data.json").read_text())
    ids = np.concatenate([np.array([EOS], dtype=np.uint16), *load_docs(folder / "valid.npz")])
    model = load_miniature(weights)
    result = score(model, ids, window=WINDOW, fresh=FRESH)
    text = SAMPLE.read_text()
    sample = [EOS, *load_encoding(folder / "tiktoken.model").encode_ordinary(text)]
    on_sample = score(model, np.array(sample, dtype=np.uint16), window=len(sample), fresh=len(sample))
    scores = {
        "bits_per_byte": result.bits_per_byte(facts["bytes"]["held_out"]),
        "nats_per_token": result.nats / result.tokens,
        "tokens": result.tokens,
        "next_token_accuracy": result.top1 / result.tokens,
        "mtp_accuracy": result.draft_matches_text / result.drafts,
        "mtp_acceptance": result.draft_matches_model / result.drafts,
        "held_out_sample_bits_per_byte": on_sample.bits_per_byte(len(text.encode())),
        "window": WINDOW,
        "fresh": FRESH,
        "nats_per_token_by_position": by_position(model, ids),
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")


def _read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_abandoned(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop entries of steps that an interrupted run did after the checkpoint it was resumed from."""
    kept: list[dict[str, Any]] = []
    for entry in log:
        while kept and kept[-1]["tokens"] > entry["tokens"]:
            kept.pop()
        kept.append(entry)
    return kept


def summarize(folder: Path, target: Path) -> dict[str, Any]:
    """Write and return the results: data, recipe, n-gram baselines, scores and the curve, the earlier run's first.

    A run whose recipe was changed on the way describes that in ``stages.json``, which is copied as it is.
    """
    log = _read_log(folder)
    facts = json.loads((folder / "data.json").read_text())
    nats_to_bpb = facts["tokens"]["held_out"] / facts["bytes"]["held_out"] / math.log(2)
    times = [e["time"] for e in log]
    active = sum(min(b - a, GAP_SECONDS) for a, b in pairwise(times))
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["budget_minutes"] = round((recipe.pop("deadline") - recipe.pop("started")) / 60, 1)
    held_out_files = facts.pop("held_out_files")
    stages = folder / "stages.json"
    log = without_abandoned(log)
    earlier = json.loads((folder / EARLIER).read_text()) if (folder / EARLIER).exists() else None
    results = {
        "model": json.loads((folder / "scores.json").read_text()),
        "ngram_bits_per_byte": json.loads((folder / "ngram.json").read_text()),
        "training": {
            "tokens": int(max(e["tokens"] for e in log)),
            "steps": max(e["step"] for e in log),
            "minutes": round(active / 60 + (earlier["training"]["minutes"] if earlier else 0), 1),
        },
        "data": facts,
        "held_out_files": held_out_files,
        "recipe": recipe,
        "stages": json.loads(stages.read_text()) if stages.exists() else [],
        "curve": {
            "train": [[int(e["tokens"]), round(e["loss"], 4)] for e in log if "loss" in e],
            "mtp": [[int(e["tokens"]), round(e["mtp"], 4)] for e in log if e.get("mtp")],
            "held_out_bits_per_byte": [
                [int(e["tokens"]), round(e["valid"] * nats_to_bpb, 4)] for e in log if "valid" in e
            ],
        },
    }
    if earlier:
        results["curve"] = {name: earlier["curve"][name] + points for name, points in results["curve"].items()}
        results["stages"] = earlier["stages"] + results["stages"]
    target.write_text(json.dumps(results, indent=1) + "\n")
    return results


def plot(results: dict[str, Any], target: Path) -> None:
    """Draw training loss and held-out bits per byte over tokens, with the best n-gram for comparison."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    curve = results["curve"]
    for name, label in (("train", "all rows"), ("mtp", "extra layer, token after next")):
        if curve[name]:
            left.plot(*np.array(curve[name]).T, lw=0.9, label=label)
    left.set(xlabel="tokens", ylabel="nats per token", title="Training loss")
    left.legend()
    right.plot(*np.array(curve["held_out_bits_per_byte"]).T, marker="o", ms=3, label="during training (sample of rows)")
    best_name, best = min(results["ngram_bits_per_byte"].items(), key=lambda item: item[1])
    right.axhline(best, color="gray", ls="--", label=f"Kneser-Ney {best_name}: {best:.3f}")
    final = results["model"]["bits_per_byte"]
    right.axhline(final, color="tab:green", ls=":", label=f"exported INT4 checkpoint: {final:.3f}")
    right.set(xlabel="tokens", ylabel="bits per byte", title="Held-out standard library files")
    right.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=110)
