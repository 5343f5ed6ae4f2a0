"""Mixture of experts: sigmoid router, routed experts over two axes, shared expert.

Legend: T tokens, D hidden, E experts, I intermediate of one expert, k experts a token. ``moe_ep`` cuts E, ``moe_tp`` I.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from ts_kernels import gemm, moe

from ..placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Routed, Spec
from ..quantization import BIAS, PLAIN, Scheme, of_one_format
from .builders import kept_bias
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .mlp import MLP
from .stack import Span, Stack, alike, inner_span, span


@dataclass(frozen=True, kw_only=True)
class MoEShape:
    """Sizes, routing and formats of one mixture layer; a ``down`` scheme left out is that of gate and up.

    ``activation`` is SiLU unless given; ``interleaved``: rows of the checkpoint's joint ``gate_up`` lie in turn;
    ``transposed``: plain tensors of all experts lie [E, inputs, outputs]. ``names`` of fields, for messages.
    """

    hidden: int
    experts: int
    intermediate: int
    top_k: int
    normalize: bool
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    shared_intermediate: int = 0
    scheme: Scheme = PLAIN
    down_scheme: Scheme | None = None
    shared_scheme: Scheme = PLAIN
    shared_down_scheme: Scheme | None = None
    bias: bool = False
    interleaved: bool = False
    transposed: bool = False
    names: tuple[str, str] = ("n_routed_experts", "moe_intermediate_size")
    activation: moe.Gated | None = None


def replicated(*dims: Dim) -> Spec:
    return Spec(*dims, moe_ep=Replicate(), moe_tp=Replicate())


class Router(Leaf):
    """Scores of all experts in float32 and the choice of k (DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""

    def __init__(self, shape: MoEShape) -> None:
        super().__init__()
        self.shape = shape
        chosen = Dim("chosen", shape.top_k)
        self.boundary = Boundary(
            (Spec(TOKENS, Dim("hidden", shape.hidden)),),
            (Spec(TOKENS, chosen).sized(4), Spec(TOKENS, chosen).sized(4)),
            names=("weights", "ids"),
        )

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> weights fp32 [T, k], expert ids int32 [T, k]."""
        s = self.shape
        logits_TE = gemm.linear(x_TD, self.weight, out_dtype=torch.float32)
        return moe.route_sigmoid(logits_TE, self.bias, s.top_k, s.groups, s.top_groups, s.scale, s.normalize)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Router matrix and the correction bias."""
        s = self.shape
        return {"weight": Buffer((s.experts, s.hidden)), "bias": Buffer((s.experts,), init="zeros")}

    def slot(self, part: str) -> Slot:
        """``weight`` or ``bias``, whole on every rank."""
        s = self.shape
        return Slot("bias", (s.experts,)) if part == "bias" else Slot("weight", (s.experts, s.hidden))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """The bias decides ties between close scores, so it stays float32."""
        self.weight = gemm.prepare(tensors.pop("weight"))
        self.bias = tensors.pop("bias").float()


class Experts(Leaf):
    """The routed experts of this rank; gives the sum over them, Partial on both axes.

    Checkpoint parts are ``gate`` and ``up`` (``gate_up`` where interleaved) and ``down``, with a key after them and the
    expert's number before them, or none where one tensor holds all experts (see ``Stack``).
    """

    memory = "own"

    def __init__(self, shape: MoEShape, mesh: Mesh) -> None:
        super().__init__()
        self.shape = shape
        experts = span(shape.names[0], shape.experts, mesh, "moe_ep")
        scheme, down = shape.scheme, shape.down_scheme or shape.scheme
        unit = math.lcm(scheme.row_unit, down.column_unit)
        inner = inner_span(shape.names[1], shape.intermediate, mesh, "moe_tp", unit)
        width, bias = Span.whole(shape.hidden, "hidden_size"), shape.bias
        parts = {"gate": inner, "up": inner}
        if shape.interleaved:
            parts = {"gate_up": Span(2 * inner.size, 2 * inner.start, 2 * inner.length)}
        self.gate_up = Stack("gate_up.", scheme, parts, width, experts=experts, bias=bias)
        self.down = Stack("down.", down, {"down": width}, inner, experts=experts, bias=bias)
        self.first = experts.start
        hidden, chosen = Dim("hidden", shape.hidden), Dim("chosen", shape.top_k)
        self.boundary = Boundary(
            (replicated(TOKENS, hidden), replicated(TOKENS, chosen), replicated(TOKENS, chosen)),
            (Spec(TOKENS, hidden, moe_ep=Partial(), moe_tp=Partial()),),
            routed=Routed("moe_ep", ids=2, count=shape.experts),
        )

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, ids_Tk: Tensor) -> Tensor:
        """[T, D], weights and global expert ids [T, k] -> [T, D]."""
        return moe.experts(x_TD, weights_Tk, self.local(ids_Tk), self.weights)

    def local(self, ids_Tk: Tensor) -> Tensor:
        """Ids among this rank's experts; those outside of them are other ranks', and the kernel skips them."""
        return ids_Tk - self.first if self.first else ids_Tk

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Stacks over this rank's experts: gate rows then up rows, and down."""
        return self.gate_up.buffers() | self.down.buffers()

    def slot(self, part: str) -> Slot:
        """Place of a tensor of one expert or of all."""
        slot = (self.down if part.rsplit(".", 2)[-2] == "down" else self.gate_up).slot(part)
        return replace(slot, transposed=self.shape.transposed and part.endswith(".weight"))

    def layout(self) -> Hashable:
        """Those of both stacks, and how the file lays them."""
        return type(self), self.gate_up.layout(), self.down.layout(), self.shape.transposed, self.shape.interleaved

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """Runs of rows of each matrix where both stay in one format, else an expert at a time; and the biases."""
        whole = self.shape.interleaved
        biases = (*self.gate_up.bias_piece(), *self.down.bias_piece())
        if alike(self.gate_up, self.down, types):
            runs = (*self.gate_up.pieces(whole=whole), *self.down.pieces())
            return (*sorted(runs, key=lambda piece: piece.expert), *biases)  # as they lie in the file
        both = zip(self.gate_up.pieces(whole=True), self.down.pieces(whole=True), strict=True)
        return (*(Piece({**a.regions, **b.regions}, expert=a.expert) for a, b in both), *biases)

    def builder(self) -> Builder:
        """Packs matrices one by one."""
        return ExpertsLeafBuilder(self)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the stacks to the form that the kernels want."""
        biases = self.gate_up.bias(tensors), self.down.bias(tensors)
        gate_up, down = of_one_format(self.gate_up.source(tensors), self.down.source(tensors))
        self.weights = moe.prepare_experts(
            gate_up,
            down,
            gate_up_bias=biases[0],
            down_bias=biases[1],
            activation=self.shape.activation,
            interleaved=self.shape.interleaved,
        )


class ExpertsLeafBuilder(Builder):
    """Packs the matrices of a layer's experts one run of rows after another."""

    def __init__(self, leaf: Experts) -> None:
        self.leaf, shape = leaf, leaf.shape
        count, inter = leaf.gate_up.experts, leaf.down.k.length
        assert count
        self.experts = moe.ExpertsBuilder(
            count.length, shape.hidden, inter, interleaved=shape.interleaved, activation=shape.activation
        )
        self.biases: dict[str, Tensor | None] = {}

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """Rows of one matrix, both matrices of an expert, or a bias."""
        gate_up, down = self.leaf.gate_up, self.leaf.down
        stacks = {stack.name: stack for stack in (gate_up, down)}
        if piece.matrix == BIAS.key:
            for stack in (gate_up, down):
                if stack.name + BIAS.key in tensors:
                    self.biases[stack.name] = kept_bias(stack, tensors)
        elif piece.matrix in stacks:
            source = stacks[piece.matrix].source(tensors)
            self.experts.put(piece.matrix.removesuffix("."), piece.expert, piece.first, source, runs=runs)
        else:
            both = of_one_format(gate_up.source(tensors), down.source(tensors))
            for stack, source in zip((gate_up, down), both, strict=True):
                self.experts.put(stack.name.removesuffix("."), piece.expert, 0, source, runs=runs)

    def finish(self) -> None:
        """Give the leaf its weights."""
        self.leaf.weights = self.experts.finish(
            gate_up_bias=self.biases.get(self.leaf.gate_up.name), down_bias=self.biases.get(self.leaf.down.name)
        )


class ExpertsWithShared(Leaf):
    """Routed experts and the shared expert in one kernel; the compiler makes it of a sum of the two."""

    memory = "own"

    def __init__(self, experts: Experts, shared: MLP) -> None:
        super().__init__()
        self.parts = (experts, shared)  # a tuple: attributes that are modules cost nn.Module's slow lookup in each step
        self.boundary = experts.boundary

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, ids_Tk: Tensor) -> Tensor:
        """As ``Experts``, plus the shared expert's output."""
        routed, shared = self.parts
        weight = shared.weight
        if not isinstance(weight, gemm.MlpWeight) or weight.gate_up.kind != "dense":  # no kernel takes a quantized one
            return routed.forward(x_TD, weights_Tk, ids_Tk) + shared.forward(x_TD)
        return moe.experts(x_TD, weights_Tk, routed.local(ids_Tk), routed.weights, shared=weight)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Those of both."""
        routed, shared = self.parts
        return routed.buffers_wanted() | {f"shared.{name}": b for name, b in shared.buffers_wanted().items()}


class MoE(nn.Module):
    """Routed experts plus the shared expert, whose intermediate dimension is cut over ``dense_tp``."""

    def __init__(self, shape: MoEShape, mesh: Mesh) -> None:
        super().__init__()
        self.router = Router(shape)
        self.experts = Experts(shape, mesh)
        self.shared = MLP(
            Dim("hidden", shape.hidden),
            shape.shared_intermediate,
            mesh,
            axis="dense_tp",
            scheme=shape.shared_scheme,
            down_scheme=shape.shared_down_scheme,
        )

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]; both branches give Partial sums, which one reduction serves where their axes agree."""
        weights_Tk, ids_Tk = self.router(x_TD)
        out: Tensor = self.experts(x_TD, weights_Tk, ids_Tk) + self.shared(x_TD)
        return out
