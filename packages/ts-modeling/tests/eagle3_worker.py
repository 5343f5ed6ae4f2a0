"""One rank of ``test_eagle3_spmd``: steps of draft heads, and of targets that give features, under several meshes.

Usage: eagle3_worker.py STORE RANK WORLD OUTPUT CHECKPOINT:MESH/POLICY/LAYERS [...]

LAYERS are a target's ``feature_layers``, with a plus between two, ``final`` among them for its final states; empty for
a draft head, ``mtp`` for the draft in the checkpoint. Policies are those of ``models_worker``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from models_worker import PROMPTS, STEPS
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
    groups, group = mesh.size("attn_dp"), mesh.index(mesh.atoms("attn_dp"))
    rows = Sequences(4, 32, seed=2)
    cache = new_cache(model, rows)
    out: list[np.ndarray] = []
    for step in STEPS:
        work = [[(s, PROMPTS[s][a:b]) for s, (a, b) in step.items() if s % groups == g] for g in range(groups)]
        single = all(b - a == 1 for a, b in step.values())
        decodes = [row for row in work[group] if len(row[1]) == 1]
        prefills = [row for row in work[group] if len(row[1]) > 1]
        batch = rows.batch(decodes=decodes, prefills=prefills, every=False)
        batch.dp_sizes = tuple(sum(len(tokens) for _, tokens in part) for part in work) if groups > 1 else ()
        sequences = [s for s, tokens in (*decodes, *prefills) for _ in tokens]
        if not taken:
            batch.features = features(model, batch, sequences, own=single or layers == "mtp")
        first, second = model.forward(batch, cache)
        assert batch.sample_indices is not None
        both = torch.cat((first, second[batch.sample_indices] if taken else second), dim=1)
        full = np.full((4, both.shape[1]), np.nan, dtype=np.float32)
        full[[s for s, _ in (*decodes, *prefills)]] = both.numpy()
        out.append(full)
    return np.stack(out)


def features(model: LoadedModel, batch: ForwardBatch, sequences: list[int], *, own: bool) -> Tensor:
    """Numbers that depend on sequence and position alone."""
    width = model.config.hidden_size * (1 if own else 3)
    places = batch.positions * 7 + torch.tensor(sequences, dtype=torch.int64)
    return torch.sin(places[:, None] * 0.7 + torch.arange(width) * 1.3)


def main() -> None:
    """Join the process group, run every job, write ``OUTPUT/JOB-RANK.npy``."""
    store, rank, world, output, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    for number, job in enumerate(jobs):
        checkpoint, _, rest = job.rpartition(":")
        mesh, policy, layers = rest.split("/")
        result = run(checkpoint, Mesh.parse(mesh, rank=int(rank)), policy, layers)
        np.save(Path(output) / f"{number}-{rank}.npy", result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
