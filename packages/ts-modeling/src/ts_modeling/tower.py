"""A vision tower with weights, compiled for this rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .compiler import Forward
from .models.kimi_k25.vision import VisionConfig
from .vision import Patches, pack


@dataclass(frozen=True, slots=True)
class LoadedVision:
    """``encode`` takes images' patches and gives the rows that stand for them in a prompt."""

    config: VisionConfig
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
        shape = self.config
        with torch.no_grad():
            return self.forward(
                pack(
                    chunks,
                    patch=shape.patch,
                    merge=shape.merge,
                    frames=shape.frames,
                    dtype=self.dtype,
                    device=self.device,
                    dp_sizes=dp_sizes,
                )
            )
