"""Memory for the raw tensors of one leaf after another.

New memory costs more than the copy into it: on the machine of the docs a page takes the system 5 us to clear and map,
and 377 MB are read into memory of their own at 0.6 GB/s, into memory used before at 4 GB/s. So a leaf's raw tensors lie
where those of an earlier leaf lay, unless that leaf still holds them.
"""

import mmap
import sys
from collections.abc import Mapping
from math import prod
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL: Final = 1 << 16
"""Bytes below which a tensor gets memory of its own."""
ALIGNMENT: Final = 64
WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element."""
Wanted = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each tensor."""


class Scratch:
    """Hands out uninitialized tensors, on a CPU in one region that is used again after ``release``."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._region: mmap.mmap | None = None
        self._keepers: set[type] = set()

    def tensors(self, owner: type, wanted: Wanted) -> dict[str, Tensor]:
        """Tensors by name, for a module of type ``owner``."""
        sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in wanted.items()}
        shared = [name for name, size in sizes.items() if size >= SMALL and self._shares(owner)]
        if shared:
            self._reserve(sum(sizes[name] + -sizes[name] % ALIGNMENT for name in shared))
        out: dict[str, Tensor] = {}
        start = 0
        for name, (shape, dtype) in wanted.items():
            if name not in shared:
                out[name] = torch.empty(shape, dtype=dtype, device=self.device)
                continue
            assert self._region is not None
            count = prod(shape)
            out[name] = torch.frombuffer(self._region, dtype=dtype, count=count, offset=start).view(shape)
            start += sizes[name] + -sizes[name] % ALIGNMENT
        return out

    def release(self, owner: type) -> None:
        """The tensors handed out last are done with, but for those that still have a holder.

        Then the region is theirs, and modules of that type get memory of their own from here on.
        """
        if self._region is not None and sys.getrefcount(self._region) > _UNHELD:
            self._region = None
            self._keepers.add(owner)

    def _shares(self, owner: type) -> bool:
        return self.device.type == "cpu" and owner not in self._keepers

    def _reserve(self, size: int) -> None:
        if self._region is None or len(self._region) < size:
            self._region = None
            self._region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                self._region.madvise(mmap.MADV_HUGEPAGE)


def words(x: Tensor) -> NDArray[Any]:
    """The memory of a tensor of any type as numpy's integers."""
    out: NDArray[Any] = x.view(WORDS[x.dtype.itemsize]).numpy()
    return out


def _unheld() -> int:
    """What ``release`` counts of a region that nothing but the scratch holds."""
    holder = Scratch(torch.device("cpu"))
    holder._region = mmap.mmap(-1, 1)
    return sys.getrefcount(holder._region)


_UNHELD: Final = _unheld()
