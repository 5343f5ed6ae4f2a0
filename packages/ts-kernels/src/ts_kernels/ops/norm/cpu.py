"""Native norms (csrc/ops/norm.cpp). Arguments have passed the public functions' checks."""

from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of each row."""
    x, weight = rows(x), rows(weight)
    count, dim = x.shape
    code = CODE[x.dtype]
    out = empty((count, dim), x.dtype)
    stride = x.stride(0)
    _native.rms_norm(x.data_ptr(), stride, weight.data_ptr(), CODE[weight.dtype], eps, out.data_ptr(), count, dim, code)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual += x`` in place, then its norm."""
    x, weight = rows(x), rows(weight)
    count, dim = x.shape
    out = empty((count, dim), x.dtype)
    _native.add_rms_norm(
        x.data_ptr(),
        x.stride(0),
        residual.data_ptr(),
        weight.data_ptr(),
        CODE[weight.dtype],
        eps,
        out.data_ptr(),
        count,
        dim,
        CODE[x.dtype],
    )
    return out, residual


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of each row."""
    x, weight, bias = rows(x), rows(weight), rows(bias)
    count, dim = x.shape
    out = empty((count, dim), x.dtype)
    _native.layer_norm(
        x.data_ptr(),
        x.stride(0),
        weight.data_ptr(),
        bias.data_ptr(),
        CODE[weight.dtype],
        eps,
        out.data_ptr(),
        count,
        dim,
        CODE[x.dtype],
    )
    return out


# Shortcuts that take the public arguments; see Operation.direct.
direct_rms_norm = _native.direct_rms_norm
direct_add_rms_norm = _native.direct_add_rms_norm
