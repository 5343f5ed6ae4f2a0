"""Mixtures of experts besides DeepSeek's: routers by softmax, a shared expert with a gate, or none.

Legend: T tokens, D hidden, E experts, k experts a token.
"""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn
from ts_kernels import gemm, moe

from ..placement import TOKENS, Boundary, Dim, Partial, Replicate, Spec
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .mlp import MLP
from .moe import Experts, MoEShape, Router


class SoftmaxRouter(Leaf):
    """The k largest scores, weighed by a softmax over all of them (``normalize``: over the chosen ones)."""

    def __init__(self, shape: MoEShape, *, bias: bool = False) -> None:
        super().__init__()
        self.shape, self.has_bias = shape, bias
        chosen = Dim("chosen", shape.top_k)
        self.boundary = Boundary(
            (Spec(TOKENS, Dim("hidden", shape.hidden)),),
            (Spec(TOKENS, chosen).sized(4), Spec(TOKENS, chosen).sized(4)),
            names=("weights", "ids"),
        )

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> weights fp32 [T, k], expert ids int32 [T, k]."""
        logits_TE = gemm.linear(x_TD, self.weight, out_dtype=torch.float32)
        return moe.route_softmax(logits_TE, self.shape.top_k, normalize=self.shape.normalize)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Router matrix, and the bias that scores have."""
        s = self.shape
        bias = {"bias": Buffer((s.experts,), init="zeros")} if self.has_bias else {}
        return {"weight": Buffer((s.experts, s.hidden)), **bias}

    def slot(self, part: str) -> Slot:
        """``weight`` or ``bias``, whole on every rank."""
        s = self.shape
        return Slot("bias", (s.experts,)) if part == "bias" else Slot("weight", (s.experts, s.hidden))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the matrix to the form that the kernels want."""
        bias = tensors.pop("bias").float() if self.has_bias else None
        self.weight = gemm.prepare(tensors.pop("weight"), bias=bias)


class GatedShared(Leaf):
    """A shared expert, each token's output times the sigmoid of one learned score (Qwen 3.5).

    Checkpoint parts are those of the MLP, and ``score``.
    """

    memory = "own"

    def __init__(self, mlp: MLP, hidden: Dim, *, axis: str) -> None:
        super().__init__()
        assert hidden.size is not None
        self.parts, self.hidden = (mlp,), hidden.size  # a tuple, so that nn.Module does not take it for a leaf
        takes, gives = Spec(TOKENS, hidden, **{axis: Replicate()}), Spec(TOKENS, hidden, **{axis: Partial()})
        self.boundary = Boundary((takes,), (gives,))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]; every rank scales its addend alike."""
        out_TD: Tensor = self.parts[0].forward(x_TD)
        return gemm.linear(x_TD, self.score).sigmoid() * out_TD

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The MLP's, and the row of the score."""
        return {**self.parts[0].buffers_wanted(), "score": Buffer((1, self.hidden))}

    def slot(self, part: str) -> Slot:
        """Place in the MLP, or the row of the score."""
        return Slot("score", (1, self.hidden)) if part == "score" else self.parts[0].slot(part)

    def layout(self) -> Hashable:
        """The MLP's."""
        return type(self), self.parts[0].layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """The MLP's, and the score."""
        mlp = self.parts[0].pieces(types)
        return (*mlp, Piece({"score": ()}, "score")) if mlp else ()

    def builder(self) -> Builder:
        """Builds the MLP, and takes the score beside it."""
        return GatedSharedBuilder(self)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring all of it to the form that the kernels want."""
        self.score = gemm.prepare(tensors.pop("score"))
        self.parts[0].prepare(tensors)


class GatedSharedBuilder(Builder):
    """Builds the MLP of a ``GatedShared``, and takes the score beside it."""

    def __init__(self, leaf: GatedShared) -> None:
        self.leaf, self.mlp = leaf, leaf.parts[0].builder()

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """The score, or a piece of the MLP."""
        if piece.matrix == "score":
            self.leaf.score = gemm.prepare(tensors["score"].clone())
        else:
            self.mlp.take(piece, tensors, runs)

    def finish(self) -> None:
        """Give the MLP its weight."""
        self.mlp.finish()


class Mixture(nn.Module):
    """A router, the experts that it chooses from, and a shared expert where there is one."""

    def __init__(
        self, router: Router | SoftmaxRouter, experts: Experts, shared: MLP | GatedShared | None = None
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D], Partial sums."""
        weights_Tk, ids_Tk = self.router(x_TD)
        out: Tensor = self.experts(x_TD, weights_Tk, ids_Tk)
        return out if self.shared is None else out + self.shared(x_TD)
