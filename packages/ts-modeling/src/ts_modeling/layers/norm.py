"""RMS norms. Legend: T tokens, D width of what is normed."""

import torch
from torch import Tensor
from ts_kernels import norm

from ..placement import TOKENS, Boundary, Dim, Spec
from .leaf import Buffer, Leaf, Slot


class _Norm(Leaf):
    """The weight and epsilon that the norms share; ``x / rms(x) * (offset + weight)`` with statistics in float32."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype, offset: float = 0.0) -> None:
        super().__init__()
        self.width, self.eps, self.dtype, self.offset = width, eps, dtype, offset

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The gain."""
        return {"weight": Buffer((self.width,), init="zeros" if self.offset else "ones")}

    def slot(self, part: str) -> Slot:
        """The gain, whole on every rank."""
        return Slot("weight", (self.width,))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Hold the gain in the dtype of the activations; one that is stored less an offset is added up in float32."""
        weight = tensors.pop("weight")
        self.weight = weight.float() + self.offset if self.offset else weight.to(self.dtype)


class RMSNorm(_Norm):
    """Norm of the residual stream."""

    memory = "own"

    def __init__(self, hidden: Dim, eps: float, dtype: torch.dtype, offset: float = 0.0) -> None:
        assert hidden.size is not None
        super().__init__(hidden.size, eps, dtype, offset)
        self.boundary = Boundary((Spec(TOKENS, hidden),), (Spec(TOKENS, hidden),))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return norm.rms_norm(x_TD, self.weight, self.eps)


class AddRMSNorm(_Norm):
    """Adds a branch to the residual stream and norms the sum. The residual is updated in place."""

    memory = "arguments"

    def __init__(self, hidden: Dim, eps: float, dtype: torch.dtype, offset: float = 0.0) -> None:
        assert hidden.size is not None
        super().__init__(hidden.size, eps, dtype, offset)
        both = (Spec(TOKENS, hidden), Spec(TOKENS, hidden))
        self.boundary = Boundary(both, both, names=("hidden", "residual"))

    def forward(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Branch and residual [T, D] -> (normed sum, sum)."""
        return norm.add_rms_norm(x_TD, residual_TD, self.weight, self.eps)


class HeadColumnsNorm(_Norm):
    """Norm of the first columns of a wider tensor, such as the query latent of a fused projection."""

    def __init__(self, takes: Dim, gives: Dim, eps: float, dtype: torch.dtype) -> None:
        assert gives.size is not None
        super().__init__(gives.size, eps, dtype)
        self.boundary = Boundary((Spec(TOKENS, takes),), (Spec(TOKENS, gives),))

    def forward(self, x_TC: Tensor) -> Tensor:
        """[T, C] -> [T, D], D <= C."""
        return norm.rms_norm(x_TC[:, : self.width], self.weight, self.eps)
