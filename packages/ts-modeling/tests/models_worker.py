"""One rank of ``test_models_spmd``: runs a short script of steps for several checkpoints and meshes.

Usage: models_worker.py STORE RANK WORLD OUTPUT CHECKPOINT:MESH/POLICY [CHECKPOINT:MESH/POLICY...]

A policy is empty, ``cut`` (tokens cut between blocks), ``dispatch`` (rows travel to their experts) or both.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ts_modeling import Mesh, load_model
from ts_modeling.compiler import Costs, Policy
from ts_modeling.testing import Sequences, new_cache

PROMPTS = [[(17 * i + 5 * s) % 320 for i in range(length)] for s, length in enumerate((13, 6, 9, 5))]
STEPS = (
    {0: (0, 4), 1: (0, 2), 2: (0, 4), 3: (0, 3)},
    {0: (4, 5), 1: (2, 6), 2: (4, 5), 3: (3, 5)},
    {0: (5, 6)},
    {0: (6, 13), 2: (5, 9)},
)
"""Which tokens of which sequence each step takes: uneven prefills, a mix with decodes, idle groups, two prefills."""


def run(checkpoint: str | Path, mesh: Mesh, policy: str = "") -> np.ndarray:
    """Logits of each step, [steps, 4, V]: rows of the sequences that this rank's group has, NaN elsewhere."""
    costs = Costs(only=Policy(cut_tokens="cut" in policy, dispatch="dispatch" in policy))
    model = load_model(checkpoint, dtype="float32", mesh=mesh, costs=costs)
    groups, group = mesh.size("attn_dp"), mesh.index(mesh.atoms("attn_dp"))
    rows = Sequences(4, 32, seed=2)
    cache = new_cache(model, rows)
    out: list[np.ndarray] = []
    for step in STEPS:
        work = [[(s, PROMPTS[s][a:b]) for s, (a, b) in step.items() if s % groups == g] for g in range(groups)]
        decodes = [row for row in work[group] if len(row[1]) == 1]
        prefills = [row for row in work[group] if len(row[1]) > 1]
        batch = rows.batch(decodes=decodes, prefills=prefills, every=False)
        batch.dp_sizes = tuple(sum(len(tokens) for _, tokens in part) for part in work) if groups > 1 else ()
        logits = model.forward(batch, cache)
        full = np.full((4, logits.shape[1]), np.nan, dtype=np.float32)
        full[[s for s, _ in (*decodes, *prefills)]] = logits.numpy()
        out.append(full)
    return np.stack(out)


def main() -> None:
    """Join the process group, run every job, write ``OUTPUT/JOB-RANK.npy``."""
    store, rank, world, output, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    for number, job in enumerate(jobs):
        checkpoint, _, rest = job.rpartition(":")
        mesh, _, policy = rest.partition("/")
        np.save(Path(output) / f"{number}-{rank}.npy", run(checkpoint, Mesh.parse(mesh, rank=int(rank)), policy))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
