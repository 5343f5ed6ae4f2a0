"""Batches of a vision tower. Legend: P patches, S side of a patch, X pixels of a patch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from ..errors import MediaError
from .images import Patches

MOST_SIDE: Final = 512
"""Patches along a side: the positions that the published tower was made for."""
MOST_PATCHES: Final = 1 << 16
"""Of one chunk: four frames of the largest image."""


class TowerShape(Protocol):
    """What the configuration of a tower says of the images that it takes."""

    @property
    def patch(self) -> int:
        """Pixels along a side of a patch."""

    @property
    def merge(self) -> tuple[int, int]:
        """Rows and columns of patches that become one token."""

    @property
    def frames(self) -> int:
        """Most frames of one chunk of a video."""

    @property
    def media_token(self) -> int:
        """Id that stands for an image's tokens in a prompt."""


@dataclass(slots=True)
class VisionBatch:
    """Patches of several images or chunks of videos, one after the other.

    On a mesh with ``attn_dp`` a rank's batch holds its own group's images, perhaps none, and ``dp_sizes`` the number of
    patches of every group.
    """

    patches: Tensor
    """[P, X] in the dtype of the activations."""
    grid: tuple[tuple[int, int, int], ...]
    """Frames, rows and columns of each chunk; their products add up to P."""
    dp_sizes: tuple[int, ...] = ()

    @property
    def tokens(self) -> Tensor:
        """The patches, by the name that compiled plans know a batch's rows by."""
        return self.patches


def pack(
    chunks: Sequence[Patches],
    *,
    shape: TowerShape,
    dtype: torch.dtype,
    device: torch.device,
    dp_sizes: tuple[int, ...] = (),
) -> VisionBatch:
    """Put ``chunks`` in one batch for a tower of that ``shape``.

    Raises ``MediaError`` naming the chunk, before memory for the batch is taken.
    """
    for number, chunk in enumerate(chunks):
        problem = _problem(chunk, shape.patch, shape.merge, shape.frames)
        if problem:
            raise MediaError(f"chunk {number}: {problem}")
    parts = [c.pixels.flatten(1).to(device, dtype) for c in chunks]
    empty = torch.empty(0, 3 * shape.patch**2, dtype=dtype, device=device)
    return VisionBatch(torch.cat((empty, *parts)), tuple(c.grid for c in chunks), dp_sizes)


def _problem(chunk: Patches, patch: int, merge: tuple[int, int], most_frames: int) -> str | None:
    """What is wrong with a chunk and what to do, or nothing."""
    frames, rows, columns = chunk.grid
    count, have = frames * rows * columns, chunk.pixels
    grid, wanted = f"its grid of {frames} x {rows} x {columns} patches (frames, rows, columns)", (3, patch, patch)
    checks = (
        (min(chunk.grid) >= 1, f"{grid} is empty; give at least one frame, row and column"),
        (frames <= most_frames, f"{grid} has more than {most_frames} frames (init_pos_emb_time); split the video"),
        (max(rows, columns) <= MOST_SIDE, f"{grid} has a side above {MOST_SIDE} patches; scale the image down"),
        (count <= MOST_PATCHES, f"{grid} is more than {MOST_PATCHES} patches; scale the image down"),
        (
            rows % merge[0] == 0 and columns % merge[1] == 0,
            f"{grid} does not divide by merge_kernel_size {merge[0]} x {merge[1]}; pad the image",
        ),
        (
            tuple(have.shape) == (count, *wanted),
            f"its pixels have shape {list(have.shape)}, but {grid} asks for {[count, *wanted]}",
        ),
        (have.is_floating_point(), f"its pixels are {have.dtype}; give normalised floats, as image_patches does"),
    )
    return next((message for holds, message in checks if not holds), None)
