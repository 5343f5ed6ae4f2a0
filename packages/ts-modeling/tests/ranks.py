"""What a worker script of one rank does: its part of each step, and its files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from ts_modeling import ForwardBatch, Mesh
from ts_modeling.testing import Sequences
from ts_modeling.testing.batches import Row

Step = Mapping[int, tuple[int, int]]
"""Which tokens (from, to) of which sequence a step takes."""


def part_of_step(
    rows: Sequences, prompts: Sequence[Sequence[int]], step: Step, mesh: Mesh
) -> tuple[ForwardBatch, list[Row]]:
    """The batch of this rank's ``attn_dp`` group, to which sequences are dealt out in turn; and its rows in order."""
    groups, group = mesh.size("attn_dp"), mesh.index(mesh.atoms("attn_dp"))
    work = [[(s, prompts[s][a:b]) for s, (a, b) in step.items() if s % groups == g] for g in range(groups)]
    decodes = [row for row in work[group] if len(row[1]) == 1]
    prefills = [row for row in work[group] if len(row[1]) > 1]
    batch = rows.batch(decodes=decodes, prefills=prefills, every=False)
    batch.dp_sizes = tuple(sum(len(tokens) for _, tokens in part) for part in work) if groups > 1 else ()
    return batch, [*decodes, *prefills]


def spread(results: Tensor, sequences: Sequence[int], count: int) -> np.ndarray:
    """One row of ``count`` for each sequence, NaN for those that have none here."""
    full = np.full((count, results.shape[1]), np.nan, dtype=np.float32)
    full[list(sequences)] = results.numpy()
    return full


def run_jobs(
    run: Callable[[str, int], np.ndarray], *, store: str, rank: str, world: str, output: str, jobs: Sequence[str]
) -> None:
    """Join the process group, and write ``OUTPUT/JOBNUMBER-RANK.npy`` of what ``run`` gives for a job and this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    for number, job in enumerate(jobs):
        np.save(Path(output) / f"{number}-{rank}.npy", run(job, int(rank)))
    dist.destroy_process_group()
