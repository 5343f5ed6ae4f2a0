"""Native activations (csrc/ops/activation.cpp). Arguments have passed the public function's checks."""

from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows
from .gates import GATES


def silu_mul(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    gate_up, out = rows(gate_up), _half(gate_up)
    if out.numel():
        count, inter = out.shape
        _native.silu_mul(gate_up.data_ptr(), gate_up.stride(0), out.data_ptr(), count, inter, CODE[gate_up.dtype])
    return out


def swiglu_clamped(gate_up: Tensor, alpha: float, limit: float, interleaved: bool) -> Tensor:
    """``g * sigmoid(alpha * g) * (u + 1)``."""
    return _gated(gate_up, GATES["swiglu_clamped"], alpha, limit, interleaved)


def gelu_mul(gate_up: Tensor, tanh: bool) -> Tensor:
    """``gelu(gate) * up``."""
    return _gated(gate_up, GATES["gelu_tanh" if tanh else "gelu"], 0.0, 0.0, False)


def gelu(x: Tensor, tanh: bool) -> Tensor:
    """``x * Phi(x)``."""
    x = rows(x)
    out = empty(x.shape, x.dtype)
    if out.numel():
        _native.gelu(x.data_ptr(), x.stride(0), out.data_ptr(), x.shape[0], x.shape[1], CODE[x.dtype], tanh)
    return out


def _half(gate_up: Tensor) -> Tensor:
    return empty((gate_up.shape[0], gate_up.shape[1] // 2), gate_up.dtype)


def _gated(gate_up: Tensor, gate: int, alpha: float, limit: float, interleaved: bool) -> Tensor:
    gate_up, out = rows(gate_up), _half(gate_up)
    if out.numel():
        count, inter = out.shape
        dtype = CODE[gate_up.dtype]
        pointers = (gate_up.data_ptr(), gate_up.stride(0), out.data_ptr())
        _native.gated(*pointers, count, inter, dtype, gate, alpha, limit, interleaved)
    return out


# Shortcuts that take the public arguments; see Operation.direct.
direct_silu_mul = _native.direct_silu_mul
