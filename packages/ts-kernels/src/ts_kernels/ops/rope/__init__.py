"""Rotary positions: tables and rotations. Legend: T tokens, H heads, D head width, R rotary width, P positions."""

import torch
from torch import Tensor

from ... import contract
from ...registry import at_most, even
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference
from .turning import apply_2d, apply_halves, apply_multimodal

__all__ = [
    "apply_2d",
    "apply_halves",
    "apply_interleaved",
    "apply_multimodal",
    "cos_sin",
    "llama3_cos_sin",
    "yarn_cos_sin",
]

_APPLY = Operation(
    "rope.apply_interleaved",
    dtypes=("x",),
    dims=("H", "D", "R"),
    empty=("H",),
    limits=(even("R"), at_most("R", "D")),
    summary="rotate pairs of each head's last columns in place",
)


@public
def cos_sin(dim: int, max_positions: int, theta: float) -> Tensor:
    """Table of plain rotations, fp32 [P, dim] on the CPU: dim/2 cosines, then dim/2 sines (arXiv 2104.09864).

    Raises ``ContractError`` for an odd ``dim``, no positions, or a theta that is not above 1.
    """
    _check_table("rope.cos_sin", dim, max_positions, theta)
    return reference.table(reference.plain_frequencies(dim, theta), max_positions)


@public
def llama3_cos_sin(
    dim: int,
    max_positions: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
) -> Tensor:
    """``cos_sin`` with Llama 3's scaled frequencies (rope type ``llama3`` of transformers; arXiv 2407.21783).

    Raises ``ContractError`` as ``cos_sin`` does, and for a factor below 1 or frequency factors that do not ascend.
    """
    operation = "rope.llama3_cos_sin"
    _check_table(operation, dim, max_positions, theta)
    contract.finite(operation, "factor", factor, least=1)
    contract.finite(operation, "low_freq_factor", low_freq_factor, least=0)
    contract.finite(operation, "high_freq_factor", high_freq_factor)
    if high_freq_factor <= low_freq_factor:
        contract.fail(operation, "high_freq_factor", f"above low_freq_factor = {low_freq_factor}", high_freq_factor)
    if original_max_positions < 1:
        contract.fail(operation, "original_max_positions", "at least 1", original_max_positions)
    frequencies = reference.llama3_frequencies(
        dim, theta, factor, low_freq_factor, high_freq_factor, original_max_positions
    )
    return reference.table(frequencies, max_positions)


@public
def yarn_cos_sin(
    dim: int,
    max_positions: int,
    theta: float,
    factor: float,
    original_max_positions: int,
    beta_fast: float,
    beta_slow: float,
    mscale: float,
    mscale_all_dim: float,
) -> Tensor:
    """Table of rotations, fp32 [P, dim] on the CPU: dim/2 cosines, then dim/2 sines.

    The numbers are those of transformers' ``yarn`` (arXiv 2309.00071), magnitude included; factor 1 is plain RoPE.
    Raises ``ContractError`` for an odd ``dim``, no positions, a factor below 1, betas that are not positive, or numbers
    that are not finite.
    """
    operation = "rope.yarn_cos_sin"
    _check_table(operation, dim, max_positions, theta)
    if original_max_positions < 1:
        contract.fail(operation, "original_max_positions", "at least 1", original_max_positions)
    contract.finite(operation, "factor", factor, least=1)
    for name, beta in (("beta_fast", beta_fast), ("beta_slow", beta_slow)):
        if not 0 < beta <= contract.MOST_FLOAT:
            contract.fail(operation, name, "positive and finite", beta)
    contract.finite(operation, "mscale", mscale)
    contract.finite(operation, "mscale_all_dim", mscale_all_dim)
    if not abs(reference.magnitude(factor, mscale, mscale_all_dim)) <= contract.MOST_FLOAT:
        contract.fail(operation, "mscale", "such that the table's magnitude is finite", mscale)
    return reference.yarn_cos_sin(
        dim, max_positions, theta, factor, original_max_positions, beta_fast, beta_slow, mscale, mscale_all_dim
    )


@public
def apply_interleaved(x: Tensor, cos_sin: Tensor, positions: Tensor, *, impl: str | None = None) -> Tensor:
    """Rotate the last R columns of each head in place, as pairs (2i, 2i+1), and give ``x`` back.

    x [T, H, D] fp32 or bf16, cos_sin fp32 [P, R] from ``yarn_cos_sin``, positions int64 [T] in [0, P). Pairs stay
    interleaved, so dot products equal those of transformers' de-interleaved form (arXiv 2104.09864).
    Raises ``ContractError``.
    """
    if impl is None:
        done = _APPLY.direct(x, cos_sin, positions)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        x.dim() == 3
        and cos_sin.dim() == 2
        and positions.dim() == 1
        and positions.shape[0] == x.shape[0]
        and cos_sin.shape[1] % 2 == 0 < cos_sin.shape[1] <= x.shape[2]
        and positions.dtype == torch.int64
        and cos_sin.dtype == torch.float32
        and x.device == cos_sin.device == positions.device
    ):
        _reject(x, cos_sin, positions)
    contract.apart("rope.apply_interleaved", "x", x)
    if contract.debug():
        contract.in_range("rope.apply_interleaved", "positions", positions, 0, cos_sin.shape[0])
    kernel = _APPLY.kernel(x.device, (x.dtype,), (x.shape[1], x.shape[2], cos_sin.shape[1]), "dense", impl)
    result: Tensor = kernel(x, cos_sin, positions)
    return result


def _check_table(operation: str, dim: int, max_positions: int, theta: float) -> None:
    if dim < 2 or dim % 2:
        contract.fail(operation, "dim", "even and at least 2", dim)
    if max_positions < 1:
        contract.fail(operation, "max_positions", "at least 1", max_positions)
    for name, size in (("dim", dim), ("max_positions", max_positions)):
        contract.bounded(operation, name, size)
    if not 1 < theta <= contract.MOST_FLOAT:
        contract.fail(operation, "theta", "finite and above 1", theta)


def _reject(x: Tensor, cos_sin: Tensor, positions: Tensor) -> None:
    operation = "rope.apply_interleaved"
    contract.shape(operation, "x", x, "T", "H", "D")
    contract.shape(operation, "cos_sin", cos_sin, "P", "R")
    contract.shape(operation, "positions", positions, x.shape[0])
    contract.dtype(operation, "cos_sin", cos_sin, torch.float32)
    contract.dtype(operation, "positions", positions, torch.int64)
    contract.device(operation, x, cos_sin=cos_sin, positions=positions)
    if cos_sin.shape[1] > x.shape[2]:
        contract.fail(operation, "cos_sin", f"at most {x.shape[2]} columns, the width of a head", cos_sin)
    contract.fail(operation, "cos_sin", "of an even number of columns, at least 2", cos_sin)


_register.reference(_APPLY, reference.apply_interleaved, {"x": contract.REALS})
_register.native(
    _APPLY, "rope.cpu:apply_interleaved", {"x": contract.FLOATS}, direct="rope.cpu:direct_apply_interleaved"
)
_register.triton(_APPLY, "rope.triton:apply_interleaved", {"x": contract.FLOATS})
