"""Prepared weights that several models of one rank use: the embedding and the head of a target and its draft."""

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

import torch

from ..layers.leaf import SharedLeaf
from .folder import CheckpointFolder

if TYPE_CHECKING:
    from .loader import Job

Pool = dict[Hashable, SharedLeaf]
"""Leaves that are prepared, by what they were made of."""


def made_of(job: "Job", folder: CheckpointFolder, dtype: torch.dtype, device: torch.device) -> Hashable:
    """What two leaves that hold the same agree in: tensors of the same files, cut and prepared alike; None: nothing."""
    leaf = job.leaf
    if not isinstance(leaf, SharedLeaf):
        return None
    found = ((slot, *folder.find(name)) for name, slot in zip(job.names, job.plan.slots, strict=True))
    tensors = tuple((file.path.resolve(), name, repr(slot)) for slot, file, name in found)
    return type(leaf), leaf.form(), tensors, dtype, device


def take_from(pool: Pool, jobs: Iterable[tuple[Hashable, "Job"]]) -> list[tuple[Hashable, "Job"]]:
    """Give leaves what is in ``pool``; returns those that are still to be read."""
    left: list[tuple[Hashable, Job]] = []
    for key, job in jobs:
        leaf = job.leaf
        if key in pool and isinstance(leaf, SharedLeaf):
            leaf.share(pool[key])
        else:
            left.append((key, job))
    return left
