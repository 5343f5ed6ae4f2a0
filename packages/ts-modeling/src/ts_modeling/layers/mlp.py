"""Gated MLP. Legend: T tokens, D hidden, I intermediate of this rank."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from ts_kernels import activation, gemm

from ..placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Spec
from ..quantization import PLAIN, Scheme, of_one_format
from .builders import StackBuilder
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .stack import Span, Stack, alike, inner_span

Weights: TypeAlias = gemm.MlpWeight | tuple[gemm.LinearWeight, gemm.LinearWeight]
"""Of gate and up, and of down: joined where a kernel takes both, which it does in one format."""


class MLP(Leaf):
    """``down(silu(gate(x)) * up(x))`` with the intermediate dimension cut over ``axis``; gives a Partial sum.

    Checkpoint parts are ``gate``, ``up`` and ``down`` with a key after them (see ``Stack``); ``down_scheme`` is
    ``scheme`` unless given.
    """

    memory = "own"
    weight: Weights

    def __init__(
        self,
        hidden: Dim,
        intermediate: int,
        mesh: Mesh,
        *,
        axis: str,
        scheme: Scheme = PLAIN,
        down_scheme: Scheme | None = None,
    ) -> None:
        super().__init__()
        assert hidden.size is not None
        down = down_scheme or scheme
        unit = math.lcm(scheme.row_unit, down.column_unit)
        inner = inner_span("intermediate_size", intermediate, mesh, axis, unit)
        width = Span.whole(hidden.size, "hidden_size")
        self.gate_up = Stack("gate_up.", scheme, {"gate": inner, "up": inner}, width)
        self.down = Stack("down.", down, {"down": width}, inner)
        takes, gives = Spec(TOKENS, hidden, **{axis: Replicate()}), Spec(TOKENS, hidden, **{axis: Partial()})
        self.boundary = Boundary((takes,), (gives,))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        weight = self.weight
        if isinstance(weight, gemm.MlpWeight):
            return gemm.mlp(x_TD, weight)
        gate_up, down = weight
        inner_TI = activation.silu_mul(gemm.linear(x_TD, gate_up, out_dtype=torch.float32))
        return gemm.linear(inner_TI, down, out_dtype=x_TD.dtype)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Gate rows then up rows, and down."""
        return self.gate_up.buffers() | self.down.buffers()

    def slot(self, part: str) -> Slot:
        """This rank's rows of ``gate`` or ``up``, or columns of ``down``."""
        return (self.down if part.startswith("down.") else self.gate_up).slot(part)

    def layout(self) -> Hashable:
        """Those of both stacks."""
        return type(self), self.gate_up.layout(), self.down.layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """Runs of rows of both, where both stay in one format."""
        if not alike(self.gate_up, self.down, types):
            return ()
        return (*self.gate_up.pieces(), *self.down.pieces())

    def builder(self) -> Builder:
        """Packs runs of rows."""
        return MLPBuilder(self)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring both matrices to the form that the kernels want; those of two formats stay as they are."""
        gate_up, down = self.gate_up.source(tensors), self.down.source(tensors)
        if isinstance(gate_up, Tensor) and isinstance(down, Tensor):
            gate_up, down = of_one_format(gate_up, down)
        self.weight = _joined(gemm.prepare(gate_up), gemm.prepare(down))


def _joined(gate_up: gemm.LinearWeight, down: gemm.LinearWeight) -> Weights:
    return gemm.prepare_mlp(gate_up, down) if gate_up.kind == down.kind else (gate_up, down)


class MLPBuilder(Builder):
    """Packs both matrices of a gated MLP."""

    def __init__(self, mlp: MLP) -> None:
        self.mlp = mlp
        self.stacks = {stack.name: StackBuilder(stack) for stack in (mlp.gate_up, mlp.down)}

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """A run of rows of one of them."""
        self.stacks[piece.matrix].take(piece, tensors, runs)

    def finish(self) -> None:
        """Give the MLP its weight."""
        self.mlp.weight = gemm.prepare_mlp(*(stack.finish() for stack in self.stacks.values()))
