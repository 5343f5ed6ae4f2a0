"""RMS norm of queries and of keys over the full width of all heads, which a mesh cuts (MiniMax M2).

Each rank sums the squares of its own columns; the sum over ranks is a Partial that the norm takes as a value, so the
compiler adds it up: two numbers a token. Legend: T tokens, C fused projection of this rank, W columns of one part.
"""

import torch
from torch import Tensor

from ..placement import TOKENS, Boundary, Dim, Partial, Replicate, Shard, Spec
from .leaf import Buffer, Leaf, Slot, cut

SUMS = Dim("squares", 2)


class SquareSums(Leaf):
    """Sums of squares of this rank's queries and keys; columns that several ranks hold are counted once."""

    memory = "own"

    def __init__(self, fused: Dim, widths: tuple[int, int], copies: tuple[int, int]) -> None:
        super().__init__()
        self.widths, self.copies = widths, copies
        takes = Spec(TOKENS, fused, attn_tp=Shard(fused.name))
        self.boundary = Boundary((takes,), (Spec(TOKENS, SUMS, attn_tp=Partial()).sized(4),))

    def forward(self, qkv_TC: Tensor) -> Tensor:
        """[T, C] -> fp32 [T, 2]."""
        parts = torch.split(qkv_TC[:, : sum(self.widths)].float(), list(self.widths), dim=1)
        sums = [part.square().sum(dim=1) / copies for part, copies in zip(parts, self.copies, strict=True)]
        return torch.stack(sums, dim=1)


class WidthNorm(Leaf):
    """Norms queries and keys in place, given the sums of squares over the whole width."""

    def __init__(
        self, fused: Dim, widths: tuple[int, int], mine: tuple[int, int], starts: tuple[int, int], eps: float
    ) -> None:
        super().__init__()
        self.widths, self.mine, self.starts, self.eps = widths, mine, starts, eps
        cut_spec = Spec(TOKENS, fused, attn_tp=Shard(fused.name))
        self.boundary = Boundary((cut_spec, Spec(TOKENS, SUMS, attn_tp=Replicate())), (cut_spec,))

    def forward(self, qkv_TC: Tensor, sums_T2: Tensor) -> Tensor:
        """[T, C], [T, 2] -> the same [T, C] with queries and keys normed."""
        scales_T2 = (sums_T2 * self.inverse_widths_2 + self.eps).rsqrt()
        start = 0
        for i, width in enumerate(self.mine):
            part_TW = qkv_TC[:, start : start + width]
            part_TW.copy_(part_TW.float() * scales_T2[:, i : i + 1] * self.weights[i])
            start += width
        return qkv_TC

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Gains of this rank's columns."""
        return {name: Buffer((n,), init="ones") for name, n in zip(("q_norm", "k_norm"), self.mine, strict=True)}

    def slot(self, part: str) -> Slot:
        """``q_norm`` or ``k_norm``."""
        which = ("q_norm", "k_norm").index(part)
        return Slot(part, (self.widths[which],), (cut(self.starts[which], self.mine[which]),))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Hold the gains in float32."""
        self.weights = tuple(tensors.pop(name).float() for name in ("q_norm", "k_norm"))
        self.inverse_widths_2 = torch.tensor([1 / w for w in self.widths], device=self.weights[0].device)
