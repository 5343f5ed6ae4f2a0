"""One rank of ``test_models_spmd``: runs a short script of steps for several checkpoints and meshes.

Usage: models_worker.py STORE RANK WORLD OUTPUT CHECKPOINT:MESH/POLICY [CHECKPOINT:MESH/POLICY...]

A policy is empty, ``cut`` (tokens cut between blocks), ``dispatch`` (rows travel to their experts) or both.
"""

import sys
from pathlib import Path

import numpy as np
from ranks import part_of_step, run_jobs, spread
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
    rows = Sequences(4, 32, seed=2)
    cache = new_cache(model, rows)
    out: list[np.ndarray] = []
    for step in STEPS:
        batch, work = part_of_step(rows, PROMPTS, step, mesh)
        out.append(spread(model.forward(batch, cache), [s for s, _ in work], 4))
    return np.stack(out)


def main() -> None:
    """Run every job."""
    store, rank, world, output, *jobs = sys.argv[1:]

    def one(job: str, mine: int) -> np.ndarray:
        checkpoint, _, rest = job.rpartition(":")
        mesh, _, policy = rest.partition("/")
        return run(checkpoint, Mesh.parse(mesh, rank=mine), policy)

    run_jobs(one, store=store, rank=rank, world=world, output=output, jobs=jobs)


if __name__ == "__main__":
    main()
