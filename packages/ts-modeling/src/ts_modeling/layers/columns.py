"""Tensors side by side, and what a draft head makes of its target's features.

Legend: T tokens, D hidden, F features (several hidden states side by side).
"""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from ..placement import TOKENS, Boundary, Dim, Mesh, Spec
from ..quantization import PLAIN, Scheme
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .linear import Linear


class JoinColumns(Leaf):
    """Tensors of ``takes`` columns side by side."""

    def __init__(self, takes: Sequence[Dim], gives: Dim) -> None:
        super().__init__()
        assert sum(dim.size or 0 for dim in takes) == gives.size
        self.boundary = Boundary(tuple(Spec(TOKENS, dim) for dim in takes), (Spec(TOKENS, gives),))

    def forward(self, *parts: Tensor) -> Tensor:
        """[T, D] each -> [T, F]."""
        return torch.cat(parts, dim=1)


class FuseFeatures(Leaf):
    """The hidden state that a draft begins from: a projection of its target's features (EAGLE3, arXiv 2503.01840).

    Later steps of a draft give the hidden state of the one before, which passes. The checkpoint's part is ``fc``.
    """

    def __init__(self, features: Dim, hidden: Dim, mesh: Mesh, *, scheme: Scheme = PLAIN) -> None:
        super().__init__()
        assert hidden.size is not None
        self.width = hidden.size
        linear = Linear(features, hidden, {"fc": hidden.size}, mesh, scheme=scheme)
        self.parts, self.boundary = (linear,), linear.boundary  # a tuple, so that nn.Module does not take it for a leaf

    def forward(self, x_TF: Tensor) -> Tensor:
        """[T, F] or [T, D] -> a new [T, D]: norms that follow add to it in place."""
        return x_TF.clone() if x_TF.shape[1] == self.width else self.parts[0].forward(x_TF)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The projection's."""
        return self.parts[0].buffers_wanted()

    def slot(self, part: str) -> Slot:
        """Rows of the projection."""
        return self.parts[0].slot(part)

    def layout(self) -> Hashable:
        """The projection's."""
        return type(self), self.parts[0].layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """The projection's."""
        return self.parts[0].pieces(types)

    def builder(self) -> Builder:
        """The projection's."""
        return self.parts[0].builder()

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the projection to the form that the kernels want."""
        self.parts[0].prepare(tensors)
