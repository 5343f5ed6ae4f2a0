"""Rotations besides MLA's: halves, several axes of positions, a plane. Legend: T tokens, H heads, D head width."""

from typing import Any

import torch
from torch import Tensor

from ... import contract
from ...registry import Trait, at_most, even
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference
from .layout import Layout, multimodal, plane

_HEADS: dict[str, Any] = {"dtypes": ("x",), "dims": ("H", "D", "R"), "empty": ("H",)}
_FIRST = (even("R"), at_most("R", "D"))
_ALL = (
    Trait("D a multiple of 4", lambda dims: dims["D"] % 4 == 0),
    Trait("R = D", lambda dims: dims["R"] == dims["D"]),
)
_HALVES = Operation("rope.apply_halves", **_HEADS, limits=_FIRST, summary="rotate each head's first columns by halves")
_MULTIMODAL = Operation(
    "rope.apply_multimodal", **_HEADS, limits=_FIRST, summary="apply_halves by three positions a token"
)
_PLANE = Operation("rope.apply_2d", **_HEADS, limits=_ALL, summary="rotate pairs by a place in a plane")


@public
def apply_halves(x: Tensor, cos_sin: Tensor, positions: Tensor, *, impl: str | None = None) -> Tensor:
    """Rotate the first R columns of each head in place, as pairs (i, i + R/2), and give ``x`` back.

    x [T, H, D] fp32 or bf16, cos_sin fp32 [P, R] of any maker of tables here, positions int64 [T] in [0, P). R below D
    is partial rotary. The form of Llama, Qwen and transformers' ``rotate_half`` (arXiv 2104.09864).
    Raises ``ContractError``.
    """
    if impl is None:
        done = _HALVES.direct(x, cos_sin, positions)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    operation = _HALVES.name
    _check(operation, x, cos_sin, positions, None)
    if cos_sin.shape[1] > x.shape[2]:
        contract.fail(operation, "cos_sin", f"at most {x.shape[2]} columns, the width of a head", cos_sin)
    return _run(_HALVES, x, cos_sin, positions[None], Layout(0, cos_sin.shape[1] // 2, True), impl)


@public
def apply_multimodal(
    x: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    sections: tuple[int, int, int],
    *,
    interleaved: bool = False,
    impl: str | None = None,
) -> Tensor:
    """``apply_halves`` where each pair turns by one of three positions: time, height, width.

    positions int64 [3, T]; ``sections`` says how many of the R/2 pairs each axis has, in blocks (Qwen2-VL's
    ``mrope_section``, arXiv 2409.12191), or taking turns with ``interleaved`` (Qwen3-VL, Qwen 3.5). Text has three
    equal positions and turns as plain. Raises ``ContractError``.
    """
    operation = _MULTIMODAL.name
    _check(operation, x, cos_sin, positions, 3)
    if cos_sin.shape[1] > x.shape[2]:
        contract.fail(operation, "cos_sin", f"at most {x.shape[2]} columns, the width of a head", cos_sin)
    whole = len(sections) == 3 and all(isinstance(count, int) and count >= 0 for count in sections)
    if not whole or 2 * sum(sections) != cos_sin.shape[1]:
        contract.fail(operation, "sections", f"3 counts with sum {cos_sin.shape[1] // 2}, half of R", sections)
    return _run(_MULTIMODAL, x, cos_sin, positions, multimodal(0, tuple(sections), interleaved), impl)


@public
def apply_2d(x: Tensor, cos_sin: Tensor, positions: Tensor, *, impl: str | None = None) -> Tensor:
    """Rotate all columns of each head in place, pairs (2i, 2i+1) taking turns between two axes.

    x [T, H, D], D a multiple of 4, cos_sin fp32 [P, D/2] (``cos_sin(D // 2, P, theta)``), positions int64 [2, T]: x
    (column) and y (row) of each patch. Pair 2j turns by x and pair 2j+1 by y, both at frequency j: MoonViT's complex
    rotation (arXiv 2504.07491). Raises ``ContractError``.
    """
    operation = _PLANE.name
    _check(operation, x, cos_sin, positions, 2)
    if 2 * cos_sin.shape[1] != x.shape[2]:
        contract.fail(operation, "cos_sin", f"{x.shape[2] / 2:g} columns, half the width of a head", cos_sin)
    return _run(_PLANE, x, cos_sin, positions, plane(x.shape[2] // 2), impl)


def _run(
    operation: Operation, x: Tensor, cos_sin: Tensor, positions: Tensor, layout: Layout, impl: str | None
) -> Tensor:
    kernel = operation.kernel(x.device, (x.dtype,), (x.shape[1], x.shape[2], 2 * layout.pairs), "dense", impl)
    result: Tensor = kernel(x, cos_sin, positions, layout)
    return result


def _check(operation: str, x: Tensor, cos_sin: Tensor, positions: Tensor, axes: int | None) -> None:
    contract.shape(operation, "x", x, "T", "H", "D")
    contract.shape(operation, "cos_sin", cos_sin, "P", "R")
    contract.shape(operation, "positions", positions, *(() if axes is None else (axes,)), x.shape[0])
    contract.dtype(operation, "cos_sin", cos_sin, torch.float32)
    contract.dtype(operation, "positions", positions, torch.int64)
    contract.device(operation, x, cos_sin=cos_sin, positions=positions)
    contract.apart(operation, "x", x)
    if cos_sin.shape[1] % 2 or cos_sin.shape[1] == 0:
        contract.fail(operation, "cos_sin", "of an even number of columns, at least 2", cos_sin)
    if contract.debug():
        contract.in_range(operation, "positions", positions, 0, cos_sin.shape[0])


for _operation in (_HALVES, _MULTIMODAL, _PLANE):
    _register.reference(_operation, reference.turn, {"x": contract.REALS})
    _direct = "rope.cpu:direct_apply_halves" if _operation is _HALVES else None
    _register.native(_operation, "rope.cpu:turn", {"x": contract.FLOATS}, direct=_direct)
    _register.triton(_operation, "rope.triton:turn", {"x": contract.FLOATS})
