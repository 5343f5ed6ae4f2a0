"""Prepared weights that several models of one rank use: the embedding and the head of a target and its draft."""

from collections.abc import Hashable, Iterable, Sequence

import torch

from ..layers.leaf import Leaf, SharedLeaf
from .checks import Part
from .folder import CheckpointFolder

Pool = dict[Hashable, SharedLeaf]
"""Leaves that are prepared, by what they were made of."""
Job = tuple[str, Leaf, Sequence[Part]]
"""A leaf's path, the leaf, and what fills it."""


def made_of(job: Job, folder: CheckpointFolder, dtype: torch.dtype, device: torch.device) -> Hashable:
    """What two leaves that hold the same agree in: tensors of the same files, cut and prepared alike; None: nothing."""
    _, leaf, parts = job
    if not isinstance(leaf, SharedLeaf):
        return None
    found = ((e, slot, *folder.find(e.name)) for e, slot in parts)
    tensors = tuple((file.path.resolve(), name, e.part, repr(slot)) for e, slot, file, name in found)
    return type(leaf), leaf.form(), tensors, dtype, device


def take_from(pool: Pool, jobs: Iterable[tuple[Hashable, Job]]) -> list[tuple[Hashable, Job]]:
    """Give leaves what is in ``pool``; returns those that are still to be read."""
    left: list[tuple[Hashable, Job]] = []
    for key, job in jobs:
        leaf = job[1]
        if key in pool and isinstance(leaf, SharedLeaf):
            leaf.share(pool[key])
        else:
            left.append((key, job))
    return left
