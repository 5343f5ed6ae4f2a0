"""How one matrix is stored: which tensors it has, where they may be cut, and the kernels' weight that they make.

Legend: N outputs, K inputs.
"""

import abc
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor
from ts_kernels import gemm

FLOATS: Final = (torch.bfloat16, torch.float32, torch.float16)
"""Types of plain weights and of scales in checkpoints."""
Source: TypeAlias = gemm.Source
"""What the kernels take for a weight."""
Dummy = Literal["normal", "codes", "ones", "zeros", "scale", "inverse", "exponent"]


@dataclass(frozen=True, slots=True)
class Field:
    """One stored tensor of a matrix [N, K]: ``suffix`` follows the module's name in the checkpoint.

    One stored row stands for ``rows`` outputs and one stored column for ``columns`` inputs; 0 means all of them.
    ``tail`` are further sizes. ``dummy`` says what random weights are made of: codes whose standard deviation is
    ``spread``, and the ``scale`` that makes a matrix of sensible size of them (or its ``inverse``, or its ``exponent``
    of two plus 127).
    """

    key: str
    suffix: str
    dtypes: tuple[torch.dtype, ...]
    rows: int = 1
    columns: int = 1
    tail: tuple[int, ...] = ()
    dummy: Dummy = "codes"
    spread: float = 1.0
    scale: bool = False
    """Whether it holds factors, which must be finite."""

    def shape(self, n: int, k: int) -> tuple[int, ...]:
        """Of the stored tensor; sizes of 1 at the end may be left out in a file."""
        return _ceil(n, self.rows), _ceil(k, self.columns), *self.tail

    def value(self, k: int) -> float:
        """What dummy scales are filled with, for codes that make a matrix of ``k`` inputs."""
        scale = float(k**-0.5 / self.spread)
        values = {"scale": scale, "inverse": 1 / scale, "exponent": 127.0 + round(math.log2(scale)), "ones": 1.0}
        return values.get(self.dummy, 0.0)


class Scheme(abc.ABC):
    """One format with its parameters. Two that are equal can be stacked."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """For people: the format and its groups."""

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The tensors of one matrix."""

    @abc.abstractmethod
    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """The kernels' weight of tensors by key, rows of which may come from several matrices; any leading sizes.

        A tensor of one value a matrix comes as one value a row, [N, 1]. What no kernel reads comes dequantized, bf16.
        """

    @property
    def says_shape(self) -> bool:
        """Whether ``weight_shape`` [2] lies beside."""
        return False

    @property
    def unused(self) -> tuple[str, ...]:
        """Suffixes of tensors that lie beside and are not read (scales of quantized activations)."""
        return ()

    @cached_property
    def row_unit(self) -> int:
        """A matrix may be cut along N at multiples of this."""
        return math.lcm(*(field.rows for field in self.fields if field.rows))

    @cached_property
    def column_unit(self) -> int:
        """A matrix may be cut along K at multiples of this."""
        return math.lcm(*(field.columns for field in self.fields if field.columns))

    @property
    def ragged(self) -> bool:
        """Whether the last block along K may be short."""
        return False

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Plain(Scheme):
    """Floats as they are: bf16 or fp32; fp16 is read into the type of the activations."""

    @property
    def label(self) -> str:
        """For people."""
        return "plain"

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The matrix."""
        return (Field("weight", ".weight", FLOATS, dummy="normal"),)

    def source(self, tensors: dict[str, Tensor], k: int) -> Source:
        """The matrix itself."""
        return tensors.pop("weight")


PLAIN: Final = Plain()
BIAS: Final = Field("bias", ".bias", FLOATS, columns=0, dummy="zeros")
"""Of any format: one value an output."""


def dequantized(source: Source) -> Tensor:
    """``source`` as a plain tensor: bf16, one matrix of a stack at a time; a tensor as it is."""
    if isinstance(source, Tensor):
        return source
    if len(source.shape) == 2:  # in the kernels' own form, which they read back faster than torch reads the source
        rows = gemm.LinearBuilder(source.shape[0])
        rows.put(0, source)  # in this thread, beside others that load
        return rows.finish().dequantize(torch.bfloat16)
    out = torch.empty(source.shape, dtype=torch.bfloat16, device=source.device)
    for i, one in enumerate(out):
        one.copy_(dequantized(source[i]))
    return out


def of_one_format(first: Source, second: Source) -> tuple[Source, Source]:
    """Both as they are where their formats agree, else both plain: kernels that take two take them alike."""
    if isinstance(first, Tensor) or isinstance(second, Tensor) or first.kind != second.kind:
        first, second = dequantized(first), dequantized(second)
        wider = torch.promote_types(first.dtype, second.dtype)
        return first.to(wider), second.to(wider)
    return first, second


def _ceil(size: int, unit: int) -> int:
    return -(-size // unit) if unit else 1
