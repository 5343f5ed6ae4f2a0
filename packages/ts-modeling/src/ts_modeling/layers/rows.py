"""Selection of the rows whose logits are wanted. Legend: T tokens, S sampled rows, D hidden."""

from torch import Tensor

from ..placement import OPAQUE, SAMPLES, TOKENS, Boundary, Dim, Shard, Spec
from .leaf import Leaf


class SelectRows(Leaf):
    """Keeps the rows of ``indices``; None keeps all. Linear, so a pending sum is reduced after it, on fewer rows.

    The indices are those of this rank's ``attn_dp`` group, so tokens must be cut there.
    """

    memory = "arguments"

    def __init__(self, hidden: Dim) -> None:
        super().__init__()
        takes = Spec(TOKENS, hidden, attn_dp=Shard("tokens"))
        gives = Spec(SAMPLES, hidden, attn_dp=Shard("samples"))
        self.boundary = Boundary((takes, OPAQUE), (gives,), linear=True)

    def forward(self, x_TD: Tensor, indices_S: Tensor | None) -> Tensor:
        """[T, D], [S] -> [S, D]."""
        return x_TD if indices_S is None else x_TD.index_select(0, indices_S)
