"""A vision tower with weights, compiled for this rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .compiler import Forward
from .vision import Patches, TowerShape, pack


@dataclass(frozen=True, slots=True)
class LoadedVision:
    """``encode`` takes images' patches and gives the rows that stand for them in a prompt."""

    config: TowerShape
    code: str
    """Source of ``forward``."""
    forward: Forward
    """Of a ``VisionBatch``."""
    dtype: torch.dtype
    """Of activations."""
    device: torch.device

    def encode(self, chunks: Sequence[Patches], *, dp_sizes: tuple[int, ...] = ()) -> Tensor:
        """Rows of the text model's width for all ``chunks`` in order, [M, D].

        On a mesh with ``attn_dp``, ``chunks`` are those of this rank's group (perhaps none) and ``dp_sizes`` the number
        of patches of every group. Raises ``MediaError`` naming the chunk.
        """
        with torch.no_grad():
            return self.forward(
                pack(chunks, shape=self.config, dtype=self.dtype, device=self.device, dp_sizes=dp_sizes)
            )
