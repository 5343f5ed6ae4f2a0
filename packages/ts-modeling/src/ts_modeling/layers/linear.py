"""Matrix products, whole or cut over one mesh axis.

Legend: T tokens, K inputs, N outputs.
"""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor
from ts_kernels import gemm

from ..placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Shard, Spec
from ..quantization import PLAIN, Scheme
from .builders import WeightBuilder
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .stack import Stack, span


def product_boundary(takes: Dim, gives: Dim, columns: str | None, rows: str | None) -> Boundary:
    """Of a product cut over an axis: ``columns`` gives a Shard, ``rows`` takes one and gives a Partial sum."""
    before, after = Spec(TOKENS, takes), Spec(TOKENS, gives)
    if columns:
        before = Spec(TOKENS, takes, **{columns: Replicate()})
        after = Spec(TOKENS, gives, **{columns: Shard(gives.name)})
    if rows:
        before = Spec(TOKENS, takes, **{rows: Shard(takes.name)})
        after = Spec(TOKENS, gives, **{rows: Partial()})
    return Boundary((before,), (after,))


class Linear(Leaf):
    """``x_TK @ weight_NK.T + bias_N``, several checkpoint matrices of one ``scheme`` stacked along N (``parts``: name
    -> rows).

    ``columns`` cuts N (each part on its own) over that axis and gives a Shard; ``rows`` cuts K, takes a Shard and gives
    a Partial sum; neither keeps the weight whole on every rank. ``heads`` says how many rows a head of a part has that
    neighbours of ``columns`` share where heads are fewer than ranks (keys); ``gives`` counts every copy. Checkpoint
    parts are called ``PART.KEY`` (see ``Stack``) and, with ``bias``, ``PART.bias``.
    """

    memory = "own"

    def __init__(
        self,
        takes: Dim,
        gives: Dim,
        parts: Mapping[str, int],
        mesh: Mesh,
        *,
        columns: str | None = None,
        rows: str | None = None,
        bias: bool = False,
        scheme: Scheme = PLAIN,
        heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        assert takes.size is not None
        assert columns is None or rows is None
        spans = {
            name: span(f"{gives.name} of {name}", n, mesh, columns, scheme.row_unit, (heads or {}).get(name, 0))
            for name, n in parts.items()
        }
        assert gives.size == sum(part.length for part in spans.values()) * (mesh.size(columns) if columns else 1)
        inputs = span(takes.name, takes.size, mesh, rows, scheme.column_unit)
        self.stack = Stack("", scheme, spans, inputs, bias=bias)
        self.boundary = product_boundary(takes, gives, columns, rows)

    def forward(self, x_TK: Tensor) -> Tensor:
        """[T, K] -> [T, N], both this rank's part."""
        return gemm.linear(x_TK, self.weight)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The stacked weight, and the bias where this rank adds it."""
        return self.stack.buffers()

    def slot(self, part: str) -> Slot:
        """Rows of the stack that belong to a part."""
        return self.stack.slot(part)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the weight to the form that the kernels want."""
        bias = self.stack.bias(tensors)
        self.weight = gemm.prepare(self.stack.source(tensors), bias=bias)

    def layout(self) -> Hashable:
        """The stack's."""
        return type(self), self.stack.layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """Runs of rows, and the bias."""
        return (*self.stack.pieces(), *self.stack.bias_piece())

    def builder(self) -> Builder:
        """Packs runs of rows."""
        return WeightBuilder(self, self.stack)

    def extra_repr(self) -> str:
        """Shape, for printing."""
        rows = sum(part.size for part in self.stack.parts.values())
        return f"{self.stack.k.size} -> {rows}, {self.stack.scheme}"
