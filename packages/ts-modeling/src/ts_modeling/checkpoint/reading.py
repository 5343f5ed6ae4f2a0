"""Tensors from mapped files: as they lie there where they may be lent, else in memory of their own.

Packing reads a mapped page where it lies: on the machine of the docs a copy out of the page cache takes as long as the
packing, and new memory for it longer than both.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from ..layers.leaf import Slot
from .folder import CheckpointFolder
from .plan import Fetch
from .words import words


def fetched(
    fetch: Fetch, names: Sequence[str], slots: Sequence[Slot], folder: CheckpointFolder, device: torch.device
) -> Tensor:
    """The region, on ``device``."""
    if fetch.entire:
        return folder.read(names[fetch.moves[0].number], fetch.shape).to(device)
    if fetch.lent:
        move = fetch.moves[0]
        return _stored(folder, names[move.number], slots[move.number])[move.take].expand(fetch.shape).to(device)
    out = new_memory(fetch.shape, fetch.dtype, device)
    for move in fetch.moves:
        _copy(out[move.put], _stored(folder, names[move.number], slots[move.number])[move.take])
    return out


def new_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized tensor; on a CPU in numpy's memory, which comes in large pages, five times as fast."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    raw = np.empty(prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def _stored(folder: CheckpointFolder, name: str, slot: Slot) -> Tensor:
    """A tensor in the file, of the shape that the slot has."""
    return folder.read(name).transpose(-1, -2) if slot.transposed else folder.read(name, slot.shape)


def _copy(to: Tensor, source: Tensor) -> None:
    """In this thread where types agree: torch's threads wait for one another after each small piece."""
    if to.device.type == "cpu" and to.dtype == source.dtype:
        np.copyto(words(to), words(source))
    else:
        to.copy_(source)
