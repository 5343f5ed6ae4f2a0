"""One rank of ``test_spmd``: runs a short script of steps under several meshes and writes its logits.

Usage: spmd_worker.py CHECKPOINT STORE RANK WORLD OUTPUT MESH/POLICY [MESH/POLICY...]

A policy is ``plain``, ``cut``, ``dispatch`` or ``both``, or ``auto`` (or none) where the number of tokens decides.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
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
    groups = mesh.size("attn_dp")
    group = mesh.index(mesh.atoms("attn_dp"))
    rows = Sequences(4, 32, seed=2)
    cache = model.new_cache(rows.num_pages, rows.page_size)
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
    return out


def main() -> None:
    """Join the process group, run every mesh, write ``OUTPUT/MESHNUMBER-RANK.npy``."""
    checkpoint, store, rank, world, output, *meshes = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    for number, text in enumerate(meshes):
        axes, _, policy = text.partition("/")
        mesh = Mesh.parse(axes, rank=int(rank))
        costs = Costs(start=2000, only=POLICIES[policy or "auto"])
        model = load_model(checkpoint, dtype="float32", mesh=mesh, costs=costs)
        np.save(Path(output) / f"{number}-{rank}.npy", np.stack(run(model, mesh)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
