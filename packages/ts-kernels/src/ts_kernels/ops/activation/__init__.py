"""Activations. Legend: T tokens, I intermediate width, D width.

They are products of fp32 numbers, so that of -inf, which meets a factor of 0, comes NaN (as of torch's).
"""

import math
from typing import Any

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference
from .gates import GATES, Gated

__all__ = ["GATES", "Gated", "gelu", "gelu_mul", "silu_mul", "swiglu_clamped"]

_PAIR: dict[str, Any] = {"dtypes": ("gate_up",), "dims": ("I",), "empty": ("I",)}
_SILU_MUL = Operation("activation.silu_mul", **_PAIR, summary="silu(gate) * up of a fused pair")
_SWIGLU_CLAMPED = Operation(
    "activation.swiglu_clamped", **_PAIR, summary="GPT-OSS: gate * sigmoid(1.702 gate) (up + 1)"
)
_GELU_MUL = Operation("activation.gelu_mul", **_PAIR, summary="gelu(gate) * up of a fused pair")
_GELU = Operation("activation.gelu", dtypes=("x",), dims=("D",), empty=("D",), summary="x * Phi(x), exact or by tanh")


@public
def silu_mul(gate_up: Tensor, *, impl: str | None = None) -> Tensor:
    """``silu(gate) * up`` where the first half of the columns is gate (SwiGLU, arXiv 2002.05202).

    gate_up [T, 2I] (rows may be spaced); gives a new dense [T, I] of the same dtype, computed in fp32.
    Raises ``ContractError``.
    """
    if impl is None:
        done = _SILU_MUL.direct(gate_up)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    kernel = _kernel(_SILU_MUL, gate_up, impl)
    result: Tensor = kernel(gate_up)
    return result


@public
def swiglu_clamped(
    gate_up: Tensor,
    *,
    alpha: float = 1.702,
    limit: float = 7.0,
    interleaved: bool = False,
    impl: str | None = None,
) -> Tensor:
    """``g * sigmoid(alpha * g) * (u + 1)``, g = min(gate, limit), u = up clamped to [-limit, limit], as in GPT-OSS.

    gate_up [T, 2I]: gate columns, then up columns; or, ``interleaved``, gate in the even ones and up in the odd ones.
    Gives a new dense [T, I] of the same dtype, computed in fp32. ``limit`` may be infinite. Raises ``ContractError``.
    """
    kernel = _kernel(_SWIGLU_CLAMPED, gate_up, impl)
    if not limit > 0:
        contract.fail(_SWIGLU_CLAMPED.name, "limit", "positive", limit)
    contract.finite(_SWIGLU_CLAMPED.name, "alpha", alpha)
    limit = limit if limit <= contract.MOST_FLOAT else math.inf
    result: Tensor = kernel(gate_up, alpha, limit, interleaved)
    return result


@public
def gelu_mul(gate_up: Tensor, *, tanh: bool = False, impl: str | None = None) -> Tensor:
    """``gelu(gate) * up`` where the first half of the columns is gate (GEGLU, arXiv 2002.05202).

    gate_up [T, 2I] (rows may be spaced); gives a new dense [T, I] of the same dtype, computed in fp32. ``tanh`` takes
    GELU's approximation by tanh. Raises ``ContractError``.
    """
    kernel = _kernel(_GELU_MUL, gate_up, impl)
    result: Tensor = kernel(gate_up, tanh)
    return result


@public
def gelu(x: Tensor, *, tanh: bool = False, impl: str | None = None) -> Tensor:
    """``x * Phi(x)`` (arXiv 1606.08415): exact, or by its approximation by ``tanh``.

    x [T, D] (rows may be spaced); gives a new dense [T, D] of the same dtype, computed in fp32.
    Raises ``ContractError``.
    """
    if x.dim() != 2 or x.dtype not in contract.FLOATS:
        contract.shape(_GELU.name, "x", x, "T", "D")
        contract.dtype(_GELU.name, "x", x, *contract.FLOATS)
    kernel = _GELU.kernel(x.device, (x.dtype,), (x.shape[1],), "dense", impl)
    result: Tensor = kernel(x, tanh)
    return result


def _kernel(operation: Operation, gate_up: Tensor, impl: str | None) -> Any:
    if gate_up.dim() != 2 or gate_up.shape[1] % 2 or gate_up.dtype not in contract.FLOATS:
        if gate_up.dim() != 2 or gate_up.shape[1] % 2:
            contract.fail(operation.name, "gate_up", "[T, 2I]", gate_up)
        contract.dtype(operation.name, "gate_up", gate_up, torch.float32, torch.bfloat16)
    return operation.kernel(gate_up.device, (gate_up.dtype,), (gate_up.shape[1] // 2,), "dense", impl)


_GATE_UP = {"gate_up": contract.FLOATS}
for _operation, _name in ((_SILU_MUL, "silu_mul"), (_SWIGLU_CLAMPED, "swiglu_clamped"), (_GELU_MUL, "gelu_mul")):
    _register.reference(_operation, getattr(reference, _name), _GATE_UP)
    _direct = "activation.cpu:direct_silu_mul" if _operation is _SILU_MUL else None
    _register.native(_operation, f"activation.cpu:{_name}", _GATE_UP, direct=_direct)
    _register.triton(_operation, f"activation.triton:{_name}", _GATE_UP)
_register.reference(_GELU, reference.gelu, {"x": contract.FLOATS})
_register.native(_GELU, "activation.cpu:gelu", {"x": contract.FLOATS})
_register.triton(_GELU, "activation.triton:gelu", {"x": contract.FLOATS})
