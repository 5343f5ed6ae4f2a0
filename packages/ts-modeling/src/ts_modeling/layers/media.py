"""Rows of images among the embeddings of tokens. Legend: T tokens, D hidden."""

from typing import Any

from torch import Tensor

from ..placement import OPAQUE, TOKENS, Boundary, Dim, Replicate, Shard, Spec
from .leaf import Leaf


class PlaceMedia(Leaf):
    """Puts ``batch.media``'s features in the place of its rows, in place; without them the embeddings pass as they are.

    The rows are those of this rank's ``attn_dp`` group, so tokens must be cut there.
    """

    def __init__(self, hidden: Dim) -> None:
        super().__init__()
        spec = Spec(TOKENS, hidden, attn_dp=Shard("tokens"), attn_tp=Replicate())
        self.boundary = Boundary((spec, OPAQUE), (spec,))

    def forward(self, x_TD: Tensor, batch: Any) -> Tensor:
        """[T, D] -> [T, D]."""
        media = batch.media
        if media is not None:
            x_TD.index_copy_(0, media.rows, media.features.to(x_TD.dtype))
        return x_TD
