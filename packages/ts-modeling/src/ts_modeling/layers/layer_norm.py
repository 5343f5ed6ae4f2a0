"""Layer norm with gain and bias. Legend: T tokens, D width of what is normed."""

import torch
from torch import Tensor
from ts_kernels import norm

from ..placement import TOKENS, Boundary, Dim, Spec
from .leaf import Buffer, Leaf, Slot


class LayerNorm(Leaf):
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` of each row, with statistics in float32."""

    def __init__(self, hidden: Dim, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        assert hidden.size is not None
        self.width, self.eps, self.dtype = hidden.size, eps, dtype
        self.boundary = Boundary((Spec(TOKENS, hidden),), (Spec(TOKENS, hidden),))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return norm.layer_norm(x_TD, self.weight, self.bias, self.eps)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Gain and bias."""
        return {"weight": Buffer((self.width,), init="ones"), "bias": Buffer((self.width,), init="zeros")}

    def slot(self, part: str) -> Slot:
        """``weight`` or ``bias``, whole on every rank."""
        return Slot(part, (self.width,))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Hold both in the dtype of the activations."""
        self.weight, self.bias = (tensors.pop(name).to(self.dtype) for name in ("weight", "bias"))
