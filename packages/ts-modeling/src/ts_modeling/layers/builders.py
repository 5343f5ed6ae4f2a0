"""Weights made of pieces of their stacks, which the loader lends from the file."""

from typing import Protocol

from torch import Tensor
from ts_kernels import gemm

from ..quantization import BIAS
from .leaf import Builder, Piece
from .stack import Stack


class StackBuilder:
    """The prepared weight of one stack, with its bias."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.rows = stack, gemm.LinearBuilder(stack.rows)
        self.bias: Tensor | None = None

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """A run of rows, or the bias."""
        if piece.matrix == BIAS.key:
            self.bias = kept_bias(self.stack, tensors)
        else:
            self.rows.put(piece.first, self.stack.source(tensors), runs=runs)

    def finish(self) -> gemm.LinearWeight:
        """The weight, all of whose rows have come."""
        return self.rows.finish(bias=self.bias)


class Weighted(Protocol):
    """A leaf of one weight."""

    weight: gemm.LinearWeight


class WeightBuilder(Builder):
    """The ``weight`` of a leaf that has one stack."""

    def __init__(self, leaf: Weighted, stack: Stack) -> None:
        self.leaf, self.stack = leaf, StackBuilder(stack)

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """A run of rows, or the bias."""
        self.stack.take(piece, tensors, runs)

    def finish(self) -> None:
        """Give the leaf its weight."""
        self.leaf.weight = self.stack.finish()


def kept_bias(stack: Stack, tensors: dict[str, Tensor]) -> Tensor | None:
    """A stack's bias, copied from what is lent."""
    lent = stack.bias(tensors)
    return None if lent is None else lent.clone()
