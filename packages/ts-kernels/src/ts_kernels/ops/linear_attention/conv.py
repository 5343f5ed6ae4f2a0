"""The depthwise convolution before the delta rule. Legend: T tokens, R rows, C channels, W width, S slots."""

from typing import Any

import torch
from torch import Tensor

from ... import contract
from ...registry import Trait
from ...selection import Operation
from .. import _register
from .._arguments import BOOL, FLOATS, FP32, INT32, INT64, check
from .._public import public
from . import reference

_DECLARED: dict[str, Any] = {
    "dtypes": ("x", "weight"),
    "dims": ("C", "W"),
    "limits": (Trait("W at least 2", lambda dims: dims["W"] >= 2),),
}
_CONV = Operation("linear_attention.causal_conv", **_DECLARED, summary="depthwise convolution and SiLU, several rows")
_STEP = Operation("linear_attention.causal_conv_step", **_DECLARED, summary="the same for one token a row")


@public
def causal_conv(
    x: Tensor,
    weight: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor,
    fresh: Tensor | None = None,
    *,
    impl: str | None = None,
) -> Tensor:
    """Convolve each row's tokens after the inputs that its state holds, then SiLU: a new [T, C] of x's dtype.

    x [T, C] fp32 or bf16 (may be a column slice), row r's tokens are x[cu_q[r]:cu_q[r+1]]; cu_q int32 [R+1] from 0 to
    T. weight [C, W]. states fp32 [S, W-1, C], the last inputs, oldest first, updated in place; slots int64 [R],
    distinct; a row with a negative slot is padding and gives zeros. fresh bool [R]: rows that start from zeros,
    whatever their slot holds. Raises ``ContractError``.
    """
    rows = rows_of(_CONV.name, cu_q)
    _check(_CONV.name, x, weight, states, slots, rows)
    check(_CONV.name, x.device, optional=("fresh",), cu_q=(cu_q, (rows + 1,), INT32), fresh=(fresh, (rows,), BOOL))
    if contract.debug():
        contract.spans(_CONV.name, cu_q, x.shape[0])
    kernel = _CONV.kernel(x.device, (x.dtype, weight.dtype), tuple(weight.shape), "dense", impl)
    result: Tensor = kernel(x, weight, states, slots, cu_q, fresh)
    return result


@public
def causal_conv_step(x: Tensor, weight: Tensor, states: Tensor, slots: Tensor, *, impl: str | None = None) -> Tensor:
    """``causal_conv`` of one token a row: x [R, C]. Raises ``ContractError``."""
    if impl is None:
        done = _STEP.direct(x, weight, states, slots)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    contract.shape(_STEP.name, "x", x, "R", "C")
    _check(_STEP.name, x, weight, states, slots, x.shape[0])
    kernel = _STEP.kernel(x.device, (x.dtype, weight.dtype), tuple(weight.shape), "dense", impl)
    result: Tensor = kernel(x, weight, states, slots)
    return result


def _check(operation: str, x: Tensor, weight: Tensor, states: Tensor, slots: Tensor, rows: int) -> None:
    contract.shape(operation, "x", x, "T", "C")
    contract.shape(operation, "weight", weight, x.shape[1], "W")
    channels, width = weight.shape
    if width < 2 or channels < 1:
        contract.fail(operation, "weight", "[C, W] with C at least 1 and W at least 2", weight)
    check(
        operation,
        x.device,
        x=(x, x.shape, FLOATS),
        weight=(weight, weight.shape, FLOATS),
        states=(states, ("S", width - 1, channels), FP32),
        slots=(slots, (rows,), INT64),
    )
    contract.dense_rows(operation, "x", x)
    contract.contiguous(operation, "states", states)
    if contract.debug():
        contract.below(operation, "slots", slots, states.shape[0])
        contract.distinct(operation, "slots", slots)


def rows_of(operation: str, cu_q: Tensor) -> int:
    """The rows that ``cu_q`` bounds; raises ``ContractError``."""
    if cu_q.dim() != 1 or cu_q.shape[0] == 0:
        contract.fail(operation, "cu_q", "[R+1]", cu_q)
    return cu_q.shape[0] - 1


_TYPES = {"x": frozenset(FLOATS), "weight": frozenset({torch.float32, torch.bfloat16})}
_register.reference(_CONV, reference.causal_conv, _TYPES)
_register.reference(_STEP, reference.causal_conv_step, _TYPES)
for _operation, _name in ((_CONV, "causal_conv"), (_STEP, "causal_conv_step")):
    _direct = "linear_attention.cpu:direct_causal_conv_step" if _operation is _STEP else None
    _register.native(_operation, f"linear_attention.cpu:{_name}", _TYPES, direct=_direct)
    _register.triton(_operation, f"linear_attention.triton.conv:{_name}", _TYPES)
