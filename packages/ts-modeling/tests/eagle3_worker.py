"""One rank of ``test_eagle3_spmd``: steps of draft heads, and of targets that give features, under several meshes.

Usage: eagle3_worker.py STORE RANK WORLD OUTPUT CHECKPOINT:MESH/POLICY/LAYERS [...]

LAYERS are a target's ``feature_layers``, with a plus between two, ``final`` among them for its final states; empty for
a draft head, ``mtp`` for the draft in the checkpoint. Policies are those of ``models_worker``.
"""

import sys
from typing import Any

import numpy as np
import torch
from models_worker import PROMPTS, STEPS
from ranks import part_of_step, run_jobs, spread
from torch import Tensor
from ts_modeling import ForwardBatch, LoadedModel, Mesh, load_model
from ts_modeling.compiler import Costs, Policy
from ts_modeling.testing import Sequences, new_cache


def run(checkpoint: str, mesh: Mesh, policy: str, layers: str) -> np.ndarray:
    """Both results of each step for the last token of each sequence of this rank's group, side by side; NaN elsewhere.

    A head is given hidden states of its own width for single tokens, its target's features for others.
    """
    costs = Costs(only=Policy(cut_tokens="cut" in policy, dispatch="dispatch" in policy))
    asked = layers.split("+")
    given: dict[str, Any] = {"feature_layers": tuple(int(part) for part in asked if part.isdigit())}
    given |= {"final_states": "final" in asked, "draft": "mtp" if layers == "mtp" else None}
    model = load_model(checkpoint, dtype="float32", mesh=mesh, costs=costs, **given)
    taken = layers not in ("", "mtp")
    rows = Sequences(4, 32, seed=2)
    cache = new_cache(model, rows)
    out: list[np.ndarray] = []
    for step in STEPS:
        batch, work = part_of_step(rows, PROMPTS, step, mesh)
        single = all(b - a == 1 for a, b in step.values())
        sequences = [s for s, tokens in work for _ in tokens]
        if not taken:
            batch.features = features(model, batch, sequences, own=single or layers == "mtp")
        first, second = model.forward(batch, cache)
        assert batch.sample_indices is not None
        both = torch.cat((first, second[batch.sample_indices] if taken else second), dim=1)
        out.append(spread(both, [s for s, _ in work], 4))
    return np.stack(out)


def features(model: LoadedModel, batch: ForwardBatch, sequences: list[int], *, own: bool) -> Tensor:
    """Numbers that depend on sequence and position alone."""
    width = model.config.hidden_size * (1 if own else 3)
    places = batch.positions * 7 + torch.tensor(sequences, dtype=torch.int64)
    return torch.sin(places[:, None] * 0.7 + torch.arange(width) * 1.3)


def main() -> None:
    """Run every job."""
    store, rank, world, output, *jobs = sys.argv[1:]

    def one(job: str, mine: int) -> np.ndarray:
        checkpoint, _, rest = job.rpartition(":")
        mesh, policy, layers = rest.split("/")
        return run(checkpoint, Mesh.parse(mesh, rank=mine), policy, layers)

    run_jobs(one, store=store, rank=rank, world=world, output=output, jobs=jobs)


if __name__ == "__main__":
    main()
