"""What all weight formats share. Legend: N outputs, K inputs, G groups of K that share a scale."""

import abc
import dataclasses
import functools
from typing import ClassVar, Self

import torch
from torch import Tensor

from ... import contract

SCALES = (torch.float32, torch.bfloat16, torch.float16)
E8M0_NAN = 255


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedWeight(abc.ABC):
    """Weights [..., N, K] of which some tensors hold codes and others scales; any leading sizes, the same in each.

    ``kind`` names the format for selection, ``group`` says how many inputs share a scale. ``weight[e]`` is the part at
    ``e`` of the first leading size. Formats check their tensors when they are made; scales that are not finite are
    refused where weights are prepared (``gemm.prepare``, ``moe.prepare_experts``), and here in debug mode.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor held, by field."""
        held = ((name, getattr(self, name)) for name in _fields(type(self)))
        return {name: tensor for name, tensor in held if tensor is not None}

    def readable(self, operation: str, argument: str) -> None:
        """Each tensor is one that kernels can read; raises ``ContractError`` that names it as ``argument``'s."""
        for name, tensor in self.tensors().items():
            contract.readable(operation, f"{argument}.{name}", tensor)

    # What each format states; a class attribute or a property.
    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(..., N, K) of the matrices that it stands for."""

    @property
    @abc.abstractmethod
    def group(self) -> int:
        """Inputs that share a scale."""

    @abc.abstractmethod
    def dequantize(self) -> Tensor:
        """The matrices, fp32 [..., N, K]; exact but for fp32's own rounding of code times scale."""

    def check_scales(self, operation: str, argument: str) -> None:
        """Raise ``ContractError`` for scales that are not finite. Reads them."""
        for name, tensor in self.tensors().items():
            if "scale" in name and not finite_scales(tensor):
                contract.fail(operation, argument, "finite", "scales that are not")

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        first: Tensor = getattr(self, _fields(type(self))[0])
        return first.device

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def __getitem__(self, index: int) -> Self:
        if len(self.shape) < 3:
            raise IndexError(f"{type(self).__name__} {list(self.shape)} is one matrix: there is no stack to index")
        return type(self)(**{name: tensor[index] for name, tensor in self.tensors().items()})


@functools.cache
def _fields(form: type[QuantizedWeight]) -> tuple[str, ...]:
    """Names of a format's tensors: a checkpoint has a hundred thousand weights."""
    return tuple(field.name for field in dataclasses.fields(form))


def finite_scales(scale: Tensor) -> bool:
    """Whether all are, of exponents in bytes too; true of a tensor without numbers."""
    good = scale != E8M0_NAN if scale.dtype == torch.uint8 else scale.float().isfinite()
    return scale.is_meta or bool(good.all())


def check_scale(name: str, argument: str, scale: Tensor, *sizes: int, dtypes: tuple[torch.dtype, ...] = SCALES) -> None:
    """A scale of these sizes and dtypes, finite in debug mode; raises ``ContractError``."""
    contract.shape(name, argument, scale, *sizes)
    contract.dtype(name, argument, scale, *dtypes)
    if contract.debug() and not finite_scales(scale):
        contract.fail(name, argument, "finite", f"{int((~scale.float().isfinite()).sum())} values that are not")


def representable(name: str, scale: Tensor) -> None:
    """Refuse a weight whose scales came out infinite or NaN: it was, or the scales' dtype cannot hold them."""
    if not finite_scales(scale):
        dtype = str(scale.dtype).removeprefix("torch.")
        contract.fail(name, "weight", f"finite, and its scales within {dtype}", "other numbers")


def check_rank(name: str, argument: str, tensor: Tensor, least: int, expected: str) -> None:
    """``tensor`` has real numbers, at least this rank, and none of its last two sizes is 0."""
    if tensor.is_complex():
        contract.fail(name, argument, "real numbers", tensor)
    contract.readable(name, argument, tensor)
    if tensor.dim() < least or 0 in tensor.shape[-least:]:
        contract.fail(name, argument, f"{expected} with N and K of 1 or more", tensor)


def check_numbers(name: str, weight: Tensor) -> None:
    """``weight`` [..., N, K] is one to round: real numbers, and some."""
    if 0 in weight.shape:
        contract.fail(name, "weight", "[..., N, K] with no size 0", weight)
    check_rank(name, "weight", weight, 2, "[..., N, K]")


def split(x: Tensor, size: int) -> Tensor:
    """[..., C] as [..., C/size, size]."""
    return x.reshape(*x.shape[:-1], -1, size)
