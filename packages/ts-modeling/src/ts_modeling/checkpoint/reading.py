"""Tensors from mapped files: as they lie there where they may be lent, else in memory of their own.

Packing reads a mapped page where it lies: on the machine of the docs a copy out of the page cache takes as long as the
packing, and new memory for it longer than both.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from .folder import CheckpointFolder
from .plan import Fetch
from .words import words


def fetched(fetch: Fetch, names: Sequence[str], folder: CheckpointFolder, device: torch.device) -> Tensor:
    """The region, on ``device``."""
    if fetch.lent:
        (move,) = fetch.moves
        lent = folder.lend(names[move.number], move.window)
        return lent if device.type == "cpu" else lent.to(device)
    out = new_memory(fetch.shape, fetch.dtype, device)
    for move in fetch.moves:
        _copy(out[move.put], folder.lend(names[move.number], move.window))
    return out


def new_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized tensor; on a CPU in numpy's memory, which comes in large pages, five times as fast."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    raw = np.empty(prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def _copy(to: Tensor, source: Tensor) -> None:
    """In this thread where types agree: torch's threads wait for one another after each small piece."""
    if to.device.type == "cpu" and to.dtype == source.dtype:
        np.copyto(words(to), words(source))
    else:
        to.copy_(source)
