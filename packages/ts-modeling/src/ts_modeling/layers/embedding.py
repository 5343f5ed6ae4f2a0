"""Token embedding and language model head, both with the vocabulary cut over one axis.

Legend: T tokens, S sampled rows, D hidden, V vocabulary.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from ts_kernels import contract, gemm

from ..placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Shard, Spec
from ..quantization import PLAIN, Scheme
from .builders import WeightBuilder
from .leaf import Buffer, Builder, Piece, SharedLeaf, Slot, cut
from .stack import Span, Stack, span, uneven_span


class Embedding(SharedLeaf):
    """Rows of the table for token ids; a rank that holds other rows gives zeros, so the result is a Partial sum."""

    memory = "own"

    def __init__(self, vocabulary: Dim, hidden: Dim, mesh: Mesh, *, dtype: torch.dtype, axis: str) -> None:
        super().__init__()
        assert vocabulary.size is not None
        assert hidden.size is not None
        self.shape, self.dtype = (vocabulary.size, hidden.size), dtype
        part = uneven_span(vocabulary.name, vocabulary.size, mesh, axis)
        self.start, self.rows = part.start, part.length
        self.boundary = Boundary((Spec(TOKENS, **{axis: Replicate()}),), (Spec(TOKENS, hidden, **{axis: Partial()}),))

    def forward(self, tokens_T: Tensor) -> Tensor:
        """[T] ids -> [T, D]. On a CPU an id outside the vocabulary is a ``ContractError``, cut or not."""
        if self.rows == self.shape[0]:
            return gemm.gather_rows(self.weight, tokens_T, dtype=self.dtype)
        if tokens_T.is_cpu or contract.debug():  # the kernel sees ids of this rank's rows alone
            contract.in_range("gemm.gather_rows", "ids", tokens_T, 0, self.shape[0])
        local_T = tokens_T - self.start
        mine_T = (local_T >= 0) & (local_T < self.rows)
        out_TD = gemm.gather_rows(self.weight, local_T * mine_T, dtype=self.dtype)
        return out_TD * mine_T[:, None]

    def buffers_wanted(self) -> dict[str, Buffer]:
        """This rank's rows of the table."""
        return {"weight": Buffer((self.rows, self.shape[1]))}

    def slot(self, part: str) -> Slot:
        """The table's rows on this rank."""
        return Slot("weight", self.shape, (cut(self.start, self.rows),))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Keep the table as stored."""
        self.weight = tensors.pop("weight")


class LMHead(SharedLeaf):
    """Logits in float32, with the vocabulary cut over ``axis``. The checkpoint's part is ``head``."""

    def __init__(self, hidden: Dim, vocabulary: Dim, mesh: Mesh, *, axis: str, scheme: Scheme = PLAIN) -> None:
        super().__init__()
        assert vocabulary.size is not None
        assert hidden.size is not None
        part = uneven_span if scheme.row_unit == 1 else partial(span, unit=scheme.row_unit)
        rows = part(vocabulary.name, vocabulary.size, mesh, axis)
        self.stack = Stack("", scheme, {"head": rows}, Span.whole(hidden.size, "hidden_size"))
        self.boundary = Boundary(
            (Spec(TOKENS, hidden, **{axis: Replicate()}),),
            (Spec(TOKENS, vocabulary, **{axis: Shard(vocabulary.name)}).sized(4),),
            names=("logits",),
        )

    def forward(self, x_SD: Tensor) -> Tensor:
        """[S, D] -> [S, V] fp32, this rank's columns."""
        return gemm.linear(x_SD, self.weight, out_dtype=torch.float32)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """This rank's rows of the head."""
        return self.stack.buffers()

    def slot(self, part: str) -> Slot:
        """The head's rows on this rank."""
        return self.stack.slot(part)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the weight to the form that the kernels want."""
        self.weight = gemm.prepare(self.stack.source(tensors))

    def layout(self) -> Hashable:
        """The stack's."""
        return type(self), self.stack.layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """Runs of rows."""
        return tuple(self.stack.pieces())

    def builder(self) -> Builder:
        """Packs runs of rows."""
        return WeightBuilder(self, self.stack)

    def form(self) -> Scheme:
        """How the matrix is stored."""
        return self.stack.scheme
