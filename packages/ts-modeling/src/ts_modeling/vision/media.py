"""Features of images for the media tokens of a step. Legend: T tokens, R rows of features, D hidden."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MediaError


@dataclass(frozen=True, slots=True)
class MediaRows:
    """What takes the place of some tokens' embeddings in one step."""

    rows: Tensor
    """Which tokens of the step, int64 [R]."""
    features: Tensor
    """[R, D], in any float type."""


def place_media(tokens: Tensor, features: Tensor, media_token: int) -> MediaRows | None:
    """Pair the media tokens of a step's ``tokens`` [T] with ``features`` [R, D] in order; None if there are neither.

    Where a prompt is computed in chunks, give the features of this chunk's media tokens alone. Raises ``MediaError``
    if the numbers differ.
    """
    rows = (tokens == media_token).nonzero().flatten()
    if features.dim() != 2 or len(rows) != len(features):
        raise MediaError(
            f"the step has {len(rows)} media tokens (id {media_token}), but the features are {list(features.shape)}: "
            "write as many media tokens in the prompt as the tower gives rows for its images, and pass one row for "
            "each media token of this step"
        )
    if not len(rows):
        return None
    return MediaRows(rows.to(features.device, torch.int64), features)
