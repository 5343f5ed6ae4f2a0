"""A layer's routed experts in one call. Legend: T tokens, E experts, k experts a token, D hidden, I intermediate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import contract, settings
from ...registry import KernelSpec
from ...selection import Operation
from .. import _register
from .._public import public
from ..activation.gates import Gated
from ..gemm.weights import MlpWeight
from ..quantize.formats import QuantizedWeight
from . import reference
from .weights import ALL_KINDS, ExpertSource, ExpertWeights, checked, checked_bias

_EXPERTS = Operation(
    "moe.experts", dtypes=("x", "weight"), dims=("E", "D", "I"), summary="weighted sum of each token's experts"
)


@public
def prepare_experts(
    gate_up: ExpertSource,
    down: ExpertSource,
    *,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: Gated | None = None,
    interleaved: bool = False,
    keep_source: bool = False,
    impl: str | None = None,
) -> ExpertWeights:
    """Bring a layer's routed experts to the form that the chosen kernel reads.

    gate_up [E, 2I, D] and down [E, D, I], both of one format of ``ts_kernels.quantize``, or both fp32 or bf16 tensors.
    Rows of gate_up (and of its bias [E, 2I]) are gate rows, then up rows; or, ``interleaved``, in turn (GPT-OSS).
    Biases are fp32 or bf16; ``activation`` is SiLU unless given. The result does not refer to the sources where it has
    a form of its own, so the caller may drop them. ``impl`` prepares for one kernel. Numbers may be those that
    ``gemm.prepare`` takes. Raises ``ContractError``.
    """
    kind, dtype, device = checked(gate_up, down)
    experts, rows, hidden = gate_up.shape
    dims = (experts, hidden, rows // 2)
    layer = ExpertWeights(
        experts=experts,
        hidden=hidden,
        inter=rows // 2,
        kind=kind,
        dtype=dtype,
        device=device,
        gate_up=gate_up,
        down=down,
        interleaved=interleaved,
        gate_up_bias=checked_bias("gate_up_bias", gate_up_bias, gate_up, rows, interleaved),
        down_bias=checked_bias("down_bias", down_bias, gate_up, hidden, False),
        activation=activation or Gated(),
        packed=None,
    )
    spec = _spec(device, dtype, dims, kind, impl)
    if not spec.in_runs:  # what packs in runs looks at each number anyhow
        for name, source in (("gate_up", gate_up), ("down", down)):
            if isinstance(source, QuantizedWeight):
                source.check_scales("moe.prepare_experts", name)
    packs = spec.prepare
    if packs is None:
        return layer
    if keep_source or settings.current().keep_source:
        return replace(layer, packed=packs(layer))
    return replace(layer, packed=packs(layer), gate_up=None, down=None)


def packs_in_runs(device: torch.device, dtype: torch.dtype, dims: tuple[int, int, int], kind: str) -> bool:
    """Whether the kernel of such experts packs their matrices a run of rows at a time."""
    return _spec(device, dtype, dims, kind).in_runs


def with_matrices(layer: ExpertWeights, packed: Mapping[str, Sequence[Any]]) -> ExpertWeights:
    """``layer`` with the matrices of its experts, packed each by itself."""
    from . import cpu

    return replace(layer, packed=cpu.join(layer, packed["gate_up"], packed["down"]))


def _spec(
    device: torch.device, dtype: torch.dtype, dims: tuple[int, int, int], kind: str, impl: str | None = None
) -> KernelSpec:
    """The kernel that experts are prepared for."""
    return _EXPERTS.choose(device, (torch.float32, dtype), dims, f"{kind}:source+packed", impl)


@public
def experts(
    x: Tensor,
    weights: Tensor,
    ids: Tensor,
    layer: ExpertWeights,
    *,
    shared: MlpWeight | None = None,
    impl: str | None = None,
) -> Tensor:
    """``sum_j weights[:, j] * expert[ids[:, j]](x)``, plus ``shared(x)`` where given: a new [T, D] of x's dtype.

    x [T, D] fp32 or bf16, weights fp32 [T, k], ids int32 [T, k] from a router; an id outside of [0, E) is skipped (its
    expert lives elsewhere). expert(x) = down(act(gate(x) + b) * ...) + b with the layer's activation and biases.
    ``shared`` is a shared expert from ``gemm.prepare_mlp``. Sums are fp32. Raises ``ContractError``.
    """
    if impl is None:
        done = _EXPERTS.direct(x, weights, ids, layer, shared)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        x.dim() == 2
        and x.shape[1] == layer.hidden
        and weights.dim() == 2
        and weights.shape == ids.shape
        and ids.shape[1] > 0
        and weights.shape[0] == x.shape[0]
        and weights.dtype == torch.float32
        and ids.dtype == torch.int32
        and x.device == weights.device == ids.device == layer.device
    ) or (shared is not None and shared.gate_up.k != layer.hidden):
        _reject(x, weights, ids, layer, shared)
    format = layer.format if shared is None else f"{layer.format}+shared:{shared.format}"
    dims = (layer.experts, layer.hidden, layer.inter)
    kernel = _EXPERTS.kernel(x.device, (x.dtype, layer.dtype), dims, format, impl)
    result: Tensor = kernel(x, weights, ids, layer, shared)
    return result


def _reject(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> None:
    operation = _EXPERTS.name
    contract.shape(operation, "x", x, "T", layer.hidden)
    contract.shape(operation, "weights", weights, x.shape[0], "k")
    contract.shape(operation, "ids", ids, *weights.shape)
    if weights.shape[1] == 0:
        contract.fail(operation, "weights", "[T, k] with k at least 1", weights)
    contract.dtype(operation, "weights", weights, torch.float32)
    contract.dtype(operation, "ids", ids, torch.int32)
    contract.device(operation, x, weights=weights, ids=ids)
    if shared is not None and shared.gate_up.k != layer.hidden:
        contract.fail(operation, "shared", f"of width {layer.hidden} like the routed experts", f"{shared.gate_up.k}")
    contract.fail(operation, "layer", f"on {x.device} like x", f"weights on {layer.device}")


def _formats(kinds: tuple[str, ...], routed: set[str], shared: set[str]) -> frozenset[str]:
    """Every format whose routed experts, and shared one if any, hold one of these forms."""
    alone = {f"{kind}:{form}" for kind in kinds for form in routed}
    return frozenset(alone | {f"{first}+shared:{form}" for first in alone for form in shared})


_FLOATS = {"x": contract.FLOATS, "weight": contract.FLOATS}
_HELD = {"dense", "packed", "dense+packed"}
_register.reference(
    _EXPERTS,
    reference.experts,
    {"x": contract.REALS},
    _formats(ALL_KINDS, {"source", "source+packed", "source+tiled"}, _HELD),
)
_register.native(
    _EXPERTS,
    "moe.cpu:experts",
    _FLOATS,
    formats=_formats(ALL_KINDS, {"packed", "source+packed"}, {"packed", "dense+packed"}),
    prepare="moe.cpu:pack",
    in_runs=True,
    direct="moe.cpu:direct_experts",
)
_register.triton(
    _EXPERTS,
    "moe.triton.experts:experts",
    _FLOATS,
    # From a source alone it makes its own form in each call: for checks, not for serving.
    formats=_formats(ALL_KINDS, {"source", "source+packed", "tiled", "source+tiled"}, _HELD),
    prepare="moe.triton.tiles:tile_experts",
)
