"""RMS norms and layer norm. Legend: T tokens, D width."""

from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference

__all__ = ["add_rms_norm", "layer_norm", "rms_norm"]

_RMS_NORM = Operation("norm.rms_norm", dtypes=("x", "weight"), dims=("D",), summary="RMS norm of each row")
_ADD_RMS_NORM = Operation(
    "norm.add_rms_norm", dtypes=("x", "residual", "weight"), dims=("D",), summary="residual += x, then its RMS norm"
)
_LAYER_NORM = Operation(
    "norm.layer_norm", dtypes=("x", "weight"), dims=("D",), summary="layer norm of each row, with gain and bias"
)


@public
def rms_norm(x: Tensor, weight: Tensor, eps: float, *, impl: str | None = None) -> Tensor:
    """Norm each row: ``x / sqrt(mean(x^2) + eps) * weight``.

    x [T, D] (rows may be spaced, as in a column slice), weight [D], each fp32 or bf16; eps finite and not negative;
    gives a new dense [T, D] of x's dtype, computed in fp32 (arXiv 1910.07467). Raises ``ContractError``.
    """
    if not 0.0 <= eps <= contract.MOST_FLOAT:
        contract.finite("norm.rms_norm", "eps", eps, least=0.0)
    if impl is None:
        done = _RMS_NORM.direct(x, weight, eps)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if x.dim() != 2 or weight.dim() != 1 or not x.shape[1] == weight.shape[0] > 0 or x.device != weight.device:
        _reject("norm.rms_norm", x, weight)
    kernel = _RMS_NORM.kernel(x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense", impl)
    result: Tensor = kernel(x, weight, eps)
    return result


@public
def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, impl: str | None = None
) -> tuple[Tensor, Tensor]:
    """Add ``x`` to the residual stream in place and norm the sum: (normed, residual).

    x [T, D] (rows may be spaced), residual [T, D] contiguous and of x's dtype, weight [D], fp32 or bf16; eps finite and
    not negative; normed is a new dense [T, D] of x's dtype, residual the argument, which must not overlap x.
    Raises ``ContractError``.
    """
    if not 0.0 <= eps <= contract.MOST_FLOAT:
        contract.finite("norm.add_rms_norm", "eps", eps, least=0.0)
    if impl is None:
        done = _ADD_RMS_NORM.direct(x, residual, weight, eps)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if x.shape != residual.shape or x.dim() != 2 or weight.dim() != 1 or not x.shape[1] == weight.shape[0] > 0:
        _reject("norm.add_rms_norm", x, weight, residual)
    if not (x.device == weight.device == residual.device and x.dtype == residual.dtype and residual.is_contiguous()):
        _reject("norm.add_rms_norm", x, weight, residual)
    contract.disjoint("norm.add_rms_norm", "residual", residual, "x", x)
    dtypes = (x.dtype, residual.dtype, weight.dtype)
    kernel = _ADD_RMS_NORM.kernel(x.device, dtypes, (x.shape[1],), "dense", impl)
    result: tuple[Tensor, Tensor] = kernel(x, residual, weight, eps)
    return result


@public
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, impl: str | None = None) -> Tensor:
    """Layer norm of each row: ``(x - mean) / sqrt(variance + eps) * weight + bias`` (arXiv 1607.06450).

    x [T, D] fp32 or bf16 (rows may be spaced), weight and bias [D] of one of these dtypes; eps finite and not negative;
    gives a new dense [T, D] of x's dtype, computed in fp32. Raises ``ContractError``.
    """
    if not (
        x.dim() == 2
        and weight.shape == bias.shape == x.shape[1:]
        and x.shape[1] > 0
        and weight.dtype == bias.dtype
        and x.device == weight.device == bias.device
    ):
        _reject("norm.layer_norm", x, weight)
        contract.shape("norm.layer_norm", "bias", bias, x.shape[1])
        contract.dtype("norm.layer_norm", "bias", bias, weight.dtype)
        contract.device("norm.layer_norm", x, bias=bias)
    contract.finite("norm.layer_norm", "eps", eps, least=0.0)
    kernel = _LAYER_NORM.kernel(x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense", impl)
    result: Tensor = kernel(x, weight, bias, eps)
    return result


def _reject(operation: str, x: Tensor, weight: Tensor, residual: Tensor | None = None) -> None:
    contract.shape(operation, "x", x, "T", "D")
    if x.shape[1] == 0:
        contract.fail(operation, "x", "[T, D] with D at least 1", x)
    contract.shape(operation, "weight", weight, x.shape[1])
    contract.device(operation, x, weight=weight)
    if residual is not None:
        contract.shape(operation, "residual", residual, *x.shape)
        contract.device(operation, x, residual=residual)
        contract.dtype(operation, "residual", residual, x.dtype)
        contract.contiguous(operation, "residual", residual)


_REALS = {"x": contract.REALS, "weight": contract.REALS}
_register.reference(_RMS_NORM, reference.rms_norm, _REALS)
_register.reference(_ADD_RMS_NORM, reference.add_rms_norm, _REALS)
_register.native(
    _RMS_NORM, "norm.cpu:rms_norm", {"x": contract.FLOATS, "weight": contract.FLOATS}, direct="norm.cpu:direct_rms_norm"
)
_register.native(
    _ADD_RMS_NORM,
    "norm.cpu:add_rms_norm",
    {"x": contract.FLOATS, "residual": contract.FLOATS, "weight": contract.FLOATS},
    direct="norm.cpu:direct_add_rms_norm",
)
_FLOATS = {"x": contract.FLOATS, "weight": contract.FLOATS}
_register.triton(_RMS_NORM, "norm.triton:rms_norm", _FLOATS)
_register.triton(_ADD_RMS_NORM, "norm.triton:add_rms_norm", {**_FLOATS, "residual": contract.FLOATS})
_register.reference(_LAYER_NORM, reference.layer_norm, _REALS)
_register.native(_LAYER_NORM, "norm.cpu:layer_norm", _FLOATS)
_register.triton(_LAYER_NORM, "norm.triton:layer_norm", _FLOATS)
