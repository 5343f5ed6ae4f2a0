"""The gated delta rule. Legend: T tokens, R rows, H key heads, G value heads, K key width, V value width, S slots."""

from typing import Any

from torch import Tensor

from ... import contract
from ...registry import Trait, multiple
from ...selection import Operation
from .. import _register
from .._arguments import BOOL, FLOATS, FP32, INT32, INT64, check
from .._public import public
from . import reference
from .conv import rows_of

_DECLARED: dict[str, Any] = {"dtypes": ("q", "a"), "dims": ("H", "G", "K", "V"), "limits": (multiple("G", "H"),)}
_DELTA = Operation("linear_attention.gated_delta", **_DECLARED, summary="gated delta rule over several rows")
_STEP = Operation("linear_attention.gated_delta_step", **_DECLARED, summary="the same for one token a row")


@public
def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor,
    fresh: Tensor | None = None,
    *,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Read each token's query from a state that its key and value update: a new [T, G, V] of q's dtype.

    For each token and value head, with q and k scaled to length one (epsilon 1e-6):
    ``S *= exp(-exp(a_log) * softplus(a + dt_bias))``, ``S += k (sigmoid(b) * (v - S^T k))^T``, ``out = S^T (scale q)``.

    q, k [T, H, K], v [T, G, V] fp32 or bf16 (tokens may be spaced, as in slices of the convolution's output); value
    head g reads key head g * H // G. a, b [T, G] fp32 or bf16; a_log, dt_bias fp32 [G]. states fp32 [S, G, K, V],
    updated in place; slots int64 [R], distinct; a row with a negative slot is padding and gives zeros. cu_q int32 [R+1]
    from 0 to T: row r's tokens are [cu_q[r], cu_q[r+1]). fresh bool [R]: rows that start from zeros, whatever their
    slot holds. scale: K^-0.5 by default. Sums are in fp32. Raises ``ContractError``.
    """
    rows = rows_of(_DELTA.name, cu_q)
    _check(_DELTA.name, q, k, v, a, b, a_log, dt_bias, states, slots, rows)
    check(_DELTA.name, q.device, optional=("fresh",), cu_q=(cu_q, (rows + 1,), INT32), fresh=(fresh, (rows,), BOOL))
    if contract.debug():
        contract.spans(_DELTA.name, cu_q, q.shape[0])
    kernel = _DELTA.kernel(q.device, (q.dtype, a.dtype), (*k.shape[1:2], *states.shape[1:]), "dense", impl)
    result: Tensor = kernel(
        q, k, v, a, b, a_log, dt_bias, states, slots, cu_q, _scale(_DELTA.name, scale, k.shape[2]), fresh
    )
    return result


@public
def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    *,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """``gated_delta`` of one token a row: q [R, H, K] and so on. Raises ``ContractError``."""
    if impl is None:
        done = _STEP.direct(q, k, v, a, b, a_log, dt_bias, states, slots, scale)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    contract.shape(_STEP.name, "q", q, "R", "H", "K")
    _check(_STEP.name, q, k, v, a, b, a_log, dt_bias, states, slots, q.shape[0])
    kernel = _STEP.kernel(q.device, (q.dtype, a.dtype), (*k.shape[1:2], *states.shape[1:]), "dense", impl)
    scale = _scale(_STEP.name, scale, k.shape[2])
    result: Tensor = kernel(q, k, v, a, b, a_log, dt_bias, states, slots, scale)
    return result


def _scale(operation: str, scale: float | None, width: int) -> float:
    if scale is None:
        return float(width**-0.5)
    contract.finite(operation, "scale", scale)
    return scale


def _check(
    operation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    rows: int,
) -> None:
    contract.shape(operation, "q", q, "T", "H", "K")
    contract.shape(operation, "v", v, q.shape[0], "G", "V")
    tokens, heads, width = q.shape
    value_heads, value_width = v.shape[1:]
    if heads == 0 or width == 0 or value_heads == 0 or value_width == 0 or value_heads % heads:
        contract.fail(operation, "v", f"[T, G, V] with G a multiple of H = {heads}, and no size 0", v)
    check(
        operation,
        q.device,
        q=(q, q.shape, FLOATS),
        k=(k, q.shape, (q.dtype,)),
        v=(v, v.shape, (q.dtype,)),
        a=(a, (tokens, value_heads), FLOATS),
        b=(b, (tokens, value_heads), (a.dtype,)),
        a_log=(a_log, (value_heads,), FP32),
        dt_bias=(dt_bias, (value_heads,), FP32),
        states=(states, ("S", value_heads, width, value_width), FP32),
        slots=(slots, (rows,), INT64),
    )
    contract.contiguous(operation, "states", states)
    if contract.debug():
        contract.below(operation, "slots", slots, states.shape[0])
        contract.distinct(operation, "slots", slots)


_FITS = (Trait("K at most 256", lambda dims: dims["K"] <= 256),)  # a state's columns are held whole
_TYPES = {"q": contract.FLOATS, "a": contract.FLOATS}
_register.reference(_DELTA, reference.gated_delta, _TYPES)
_register.reference(_STEP, reference.gated_delta_step, _TYPES)
for _operation, _name in ((_DELTA, "gated_delta"), (_STEP, "gated_delta_step")):
    _direct = "linear_attention.cpu:direct_gated_delta_step" if _operation is _STEP else None
    _register.native(_operation, f"linear_attention.cpu:{_name}", _TYPES, direct=_direct)
    _register.triton(_operation, f"linear_attention.triton.delta:{_name}", _TYPES, traits=_FITS)
