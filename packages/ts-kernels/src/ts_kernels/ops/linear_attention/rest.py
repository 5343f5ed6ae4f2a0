"""The gated norm after the delta rule, and copies of states. Legend: T rows, D width, N copies, S slots."""

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._arguments import FLOATS, INT64, check
from .._public import public
from . import reference

_NORM = Operation(
    "linear_attention.gated_rms_norm", dtypes=("x", "weight"), dims=("D",), summary="RMS norm times SiLU of a gate"
)
_COPY = Operation("linear_attention.copy_states", dtypes=("source",), summary="copy slots of a pool of states")


@public
def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float, *, impl: str | None = None) -> Tensor:
    """``rms_norm(x) * weight * silu(z)``: a new dense [T, D] of x's dtype, computed in fp32.

    x, z [T, D] of one dtype (rows may be spaced); a token's heads are rows of their own. weight [D].
    Raises ``ContractError``.
    """
    if impl is None:
        done = _NORM.direct(x, z, weight, eps)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    operation = _NORM.name
    contract.shape(operation, "x", x, "T", "D")
    if x.shape[1] == 0:
        contract.fail(operation, "x", "[T, D] with D at least 1", x)
    check(
        operation,
        x.device,
        x=(x, x.shape, FLOATS),
        z=(z, x.shape, (x.dtype,)),
        weight=(weight, x.shape[1:], FLOATS),
    )
    contract.finite(operation, "eps", eps, least=0.0)
    kernel = _NORM.kernel(x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense", impl)
    result: Tensor = kernel(x, z, weight, eps)
    return result


@public
def copy_states(
    source: Tensor, target: Tensor, from_slots: Tensor, to_slots: Tensor, *, impl: str | None = None
) -> None:
    """``target[to_slots[i]] = source[from_slots[i]]``, in place; a pair with a negative slot is skipped.

    source [S, ...] and target [S', ...] of one dtype and equal sizes but for the first, contiguous; they may be one
    tensor. from_slots, to_slots int64 [N]; no slot is written twice, nor read and written. Raises ``ContractError``.
    """
    operation = _COPY.name
    if source.dim() < 2:
        contract.fail(operation, "source", "[S, ...] of rank 2 or more", source)
    contract.shape(operation, "from_slots", from_slots, "N")
    check(
        operation,
        source.device,
        target=(target, ("S", *source.shape[1:]), (source.dtype,)),
        from_slots=(from_slots, from_slots.shape, INT64),
        to_slots=(to_slots, from_slots.shape, INT64),
    )
    contract.contiguous(operation, "source", source)
    contract.contiguous(operation, "target", target)
    if contract.debug():
        contract.below(operation, "from_slots", from_slots, source.shape[0])
        contract.below(operation, "to_slots", to_slots, target.shape[0])
        used = (from_slots >= 0) & (to_slots >= 0)
        contract.distinct(operation, "to_slots", to_slots[used])
        if source.data_ptr() == target.data_ptr():
            both = torch.cat((torch.unique(from_slots[used]), to_slots[used]))
            contract.distinct(operation, "from_slots and to_slots", both)
    _COPY.kernel(source.device, (source.dtype,), (), "dense", impl)(source, target, from_slots, to_slots)


_TYPES = {"x": contract.FLOATS, "weight": contract.FLOATS}
_register.reference(_NORM, reference.gated_rms_norm, _TYPES)
_register.reference(_COPY, reference.copy_states, {})
_register.native(
    _NORM, "linear_attention.cpu:gated_rms_norm", _TYPES, direct="linear_attention.cpu:direct_gated_rms_norm"
)
_register.native(_COPY, "linear_attention.cpu:copy_states", {})
_register.triton(_NORM, "linear_attention.triton.rest:gated_rms_norm", _TYPES)
_register.triton(_COPY, "linear_attention.triton.rest:copy_states", {})
