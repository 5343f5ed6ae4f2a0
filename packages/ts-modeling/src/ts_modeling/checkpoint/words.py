"""Memory of tensors of types that numpy does not have."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

WORDS: Final[Mapping[int, torch.dtype]] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element."""


def words(x: Tensor) -> NDArray[Any]:
    """The memory of a tensor of any type as numpy's integers."""
    out: NDArray[Any] = x.view(WORDS[x.dtype.itemsize]).numpy()
    return out
