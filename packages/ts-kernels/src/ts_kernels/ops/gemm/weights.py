"""Weights of linear layers, prepared once. Legend: N outputs, K inputs, I intermediate, D hidden.

A prepared weight holds what the chosen kernel reads and no more: on a CPU with native kernels that is the packed form
alone, and ``dequantize`` reads it back exactly. The source is kept where the chosen kernel reads it (the reference,
Triton), or where it is asked for (``keep_source=True``, TS_KERNELS_KEEP_SOURCE=1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import contract
from ...errors import ContractError
from .._tensors import matrix
from ..quantize.formats import KINDS, QuantizedWeight

if TYPE_CHECKING:
    from ..._native import PackedLinear, PackedMlp

DENSE = "dense"
SOURCE = "source"
PACKED = "packed"
Source = Tensor | QuantizedWeight


@dataclass(frozen=True, eq=False)
class LinearWeight:
    """``weight[N, K]`` as it came, packed for the native kernels, or both; ``bias`` fp32 [N] is added to the product.

    ``kind`` is "dense" or a quantized format's; ``dtype`` is the tensor's own, fp32 where quantized.
    """

    n: int
    k: int
    kind: str
    dtype: torch.dtype
    device: torch.device
    source: Source | None
    packed: "PackedLinear | None"
    bias: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.n, self.k

    @property
    def format(self) -> str:
        """What selection sees: the kind and the forms held."""
        return held(self.source, self.packed, self.kind)

    @property
    def nbytes(self) -> int:
        """Bytes held, all forms together."""
        return sum(form.nbytes for form in (self.source, self.packed) if form is not None)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as a tensor [N, K] of its own ``dtype``, exact, or rounded to fp32 or bf16; a copy unless a plain
        source is held."""
        dtype = self.dtype if dtype is None else dtype
        if isinstance(self.source, QuantizedWeight):
            return self.source.dequantize().to(dtype)
        if self.source is not None:
            return self.source.to(dtype)
        assert self.packed is not None
        return unpack(self.packed, self.n, self.k, dtype)


def held(source: object, packed: object, kind: str = DENSE) -> str:
    """Kind and forms held: "dense", "packed" or "dense+packed" of a plain weight, else as "int4:source+packed"."""
    first = DENSE if kind == DENSE else SOURCE
    forms = "+".join(name for name, form in ((first, source), (PACKED, packed)) if form is not None)
    return forms if kind == DENSE else f"{kind}:{forms}"


def forms(*suffixes: str, kinds: tuple[str, ...] = KINDS) -> frozenset[str]:
    """Those formats of quantized kinds that hold one of these forms ("source", "packed", "source+packed")."""
    return frozenset(f"{kind}:{suffix}" for kind in kinds for suffix in suffixes)


def unpack(packed: "PackedLinear", n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The packed weight [N, K] as fp32 or bf16, without its bias."""
    from . import cpu

    return cpu.unpack(packed, n, k, dtype)


def checked(operation: str, argument: str, weight: Tensor) -> Tensor:
    """A float matrix with contiguous rows, each its own; raises ``ContractError``."""
    contract.shape(operation, argument, weight, "N", "K")
    contract.dtype(operation, argument, weight, *contract.FLOATS)
    if 0 in weight.shape:
        contract.fail(operation, argument, "[N, K] with N and K at least 1", weight)
    contract.readable(operation, argument, weight)
    return matrix(weight)


def checked_source(operation: str, argument: str, weight: Source) -> Source:
    """A float matrix with contiguous rows, or one quantized matrix; raises ``ContractError``."""
    if not isinstance(weight, QuantizedWeight):
        return checked(operation, argument, weight)
    if len(weight.shape) != 2:
        raise ContractError(operation, argument, "[N, K]", f"{weight.kind} {list(weight.shape)}")
    weight.readable(operation, argument)
    return weight


def checked_bias(operation: str, bias: Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """The bias as fp32 [N]; raises ``ContractError``."""
    if bias is None:
        return None
    contract.shape(operation, "bias", bias, n)
    contract.dtype(operation, "bias", bias, *contract.FLOATS)
    if bias.device != device:
        raise ContractError(operation, "bias", f"on {device} like the weight", bias)
    contract.readable(operation, "bias", bias)
    return bias.float().contiguous()


@dataclass(frozen=True, eq=False)
class MlpWeight:
    """A gated MLP's two weights: gate_up [2I, D] (gate rows, then up rows) and down [D, I]."""

    gate_up: LinearWeight
    down: LinearWeight
    packed: "PackedMlp | None"

    def __post_init__(self) -> None:
        if self.gate_up.n != 2 * self.down.k or self.gate_up.k != self.down.n:
            given = f"gate_up [{self.gate_up.n}, {self.gate_up.k}] and down [{self.down.n}, {self.down.k}]"
            raise ContractError("gemm.prepare_mlp", "gate_up and down", "[2I, D] and [D, I]", given)
        if self.gate_up.kind != self.down.kind:
            given = f"{self.gate_up.kind} and {self.down.kind}"
            raise ContractError("gemm.prepare_mlp", "gate_up and down", "of one format", given)
        if self.gate_up.device != self.down.device:
            given = f"{self.gate_up.device} and {self.down.device}"
            raise ContractError("gemm.prepare_mlp", "gate_up and down", "on one device", given)

    @property
    def format(self) -> str:
        """What selection sees: the kind and the forms held."""
        both = None if self.gate_up.source is None or self.down.source is None else self
        return held(both, self.packed, self.gate_up.kind)
