"""One rank of ``test_spmd``: runs a short script of steps under several meshes and writes its logits.

Usage: spmd_worker.py CHECKPOINT STORE RANK WORLD OUTPUT MESH/POLICY [MESH/POLICY...]

A policy is ``plain``, ``cut``, ``dispatch`` or ``both``, or ``auto`` (or none) where the number of tokens decides.
"""

import sys

import numpy as np
from ranks import part_of_step, run_jobs, spread
from ts_modeling import LoadedModel, Mesh, load_model
from ts_modeling.compiler import Costs, Policy
from ts_modeling.testing import Sequences

PROMPTS = [[(17 * i + 5 * s) % 320 for i in range(length)] for s, length in enumerate((13, 6, 9, 5))]
STEPS = (
    {0: (0, 4), 1: (0, 4), 2: (0, 4), 3: (0, 3)},
    {0: (4, 5), 1: (4, 6), 2: (4, 5), 3: (3, 5)},
    {0: (5, 6)},  # every attn_dp group but one is idle, and one token is too few for every rank of attn_tp
    {0: (6, 13), 2: (5, 9)},
)
"""Which tokens of which sequence each step takes: uneven prefills, a mix with decodes, one decode, two prefills."""
POLICIES = {
    "auto": None,
    "plain": Policy(),
    "cut": Policy(cut_tokens=True),
    "dispatch": Policy(dispatch=True),
    "both": Policy(cut_tokens=True, dispatch=True),
}


def run(model: LoadedModel, mesh: Mesh) -> list[np.ndarray]:
    """Logits of each step, [4, V], with the rows of the sequences that this rank's group has."""
    rows = Sequences(4, 32, seed=2)
    cache = model.new_cache(rows.num_pages, rows.page_size)
    out: list[np.ndarray] = []
    for step in STEPS:
        batch, work = part_of_step(rows, PROMPTS, step, mesh)
        out.append(spread(model.forward(batch, cache), [s for s, _ in work], 4))
    return out


def main() -> None:
    """Run every mesh."""
    checkpoint, store, rank, world, output, *meshes = sys.argv[1:]

    def job(text: str, mine: int) -> np.ndarray:
        axes, _, policy = text.partition("/")
        mesh = Mesh.parse(axes, rank=mine)
        costs = Costs(start=2000, only=POLICIES[policy or "auto"])
        return np.stack(run(load_model(checkpoint, dtype="float32", mesh=mesh, costs=costs), mesh))

    run_jobs(job, store=store, rank=rank, world=world, output=output, jobs=meshes)


if __name__ == "__main__":
    main()
