"""Weight formats, and activations to FP8. Legend: N outputs, K inputs, T tokens, D width, G groups of 128."""

from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference
from .formats import (
    KINDS,
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
    QuantizedWeight,
    quantize_fp8_block,
    quantize_fp8_channel,
    quantize_int4,
    quantize_int8,
    quantize_mxfp4,
    quantize_nvfp4,
)

__all__ = [
    "KINDS",
    "Fp8BlockWeight",
    "Fp8ChannelWeight",
    "Int4Weight",
    "Int8Weight",
    "Mxfp4Weight",
    "Nvfp4Weight",
    "QuantizedWeight",
    "fp8_per_group",
    "fp8_per_token",
    "quantize_fp8_block",
    "quantize_fp8_channel",
    "quantize_int4",
    "quantize_int8",
    "quantize_mxfp4",
    "quantize_nvfp4",
]

_PER_TOKEN = Operation("quantize.fp8_per_token", dtypes=("x",), dims=("D",), summary="rows to e4m3, a scale for each")
_PER_GROUP = Operation(
    "quantize.fp8_per_group", dtypes=("x",), dims=("D",), summary="rows to e4m3, a scale for each 128 columns"
)


@public
def fp8_per_token(x: Tensor, *, impl: str | None = None) -> tuple[Tensor, Tensor]:
    """Round rows to FP8, each row's largest magnitude being 448: (values e4m3 [T, D], scale fp32 [T, 1]).

    x [T, D] fp32 or bf16, rows may be spaced. x is about values * scale; ties go to even. The scale of numbers that are
    not all finite is not finite: infinite, or NaN where one is. Raises ``ContractError``.
    """
    return _quantize(_PER_TOKEN, x, impl)


@public
def fp8_per_group(x: Tensor, *, impl: str | None = None) -> tuple[Tensor, Tensor]:
    """As ``fp8_per_token`` with a scale for each 128 columns: (values e4m3 [T, D], scale fp32 [T, ceil(D / 128)]).

    The form of activations in DeepSeek-V3 (arXiv 2412.19437, section 3.3). Raises ``ContractError``.
    """
    return _quantize(_PER_GROUP, x, impl)


def _quantize(operation: Operation, x: Tensor, impl: str | None) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or x.shape[1] == 0 or x.dtype not in contract.FLOATS:
        contract.shape(operation.name, "x", x, "T", "D")
        contract.dtype(operation.name, "x", x, *contract.FLOATS)
        contract.fail(operation.name, "x", "[T, D] with D of 1 or more", x)
    result: tuple[Tensor, Tensor] = operation.kernel(x.device, (x.dtype,), (x.shape[1],), "dense", impl)(x)
    return result


_register.reference(_PER_TOKEN, reference.fp8_per_token, {"x": contract.FLOATS})
_register.reference(_PER_GROUP, reference.fp8_per_group, {"x": contract.FLOATS})
_register.native(_PER_TOKEN, "quantize.cpu:fp8_per_token", {"x": contract.FLOATS})
_register.native(_PER_GROUP, "quantize.cpu:fp8_per_group", {"x": contract.FLOATS})
_register.triton(_PER_TOKEN, "quantize.triton:fp8_per_token", {"x": contract.FLOATS})
_register.triton(_PER_GROUP, "quantize.triton:fp8_per_group", {"x": contract.FLOATS})
