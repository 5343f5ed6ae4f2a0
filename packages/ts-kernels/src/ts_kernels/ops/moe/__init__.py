"""Mixture of experts. Legend: T tokens, E experts, k experts a token, D hidden, I intermediate of an expert."""

import torch
from torch import Tensor

from ... import contract, settings
from ...selection import Operation
from .. import _register
from ..gemm.weights import MlpWeight
from ..quantize.formats import Int4Weight, quantize_int4
from . import reference
from .weights import ExpertSource, ExpertWeights, checked

__all__ = ["ExpertWeights", "Int4Weight", "experts", "prepare_experts", "quantize_int4", "route_sigmoid"]

_ROUTE = Operation(
    "moe.route_sigmoid",
    dtypes=("logits", "bias"),
    dims=("E", "k"),
    summary="sigmoid scores, biased choice of k within groups",
)
_EXPERTS = Operation(
    "moe.experts", dtypes=("x", "weight"), dims=("E", "D", "I"), summary="weighted sum of each token's experts"
)


def route_sigmoid(
    logits: Tensor,
    bias: Tensor,
    top_k: int,
    n_group: int,
    topk_group: int,
    scale: float,
    normalize: bool,
    *,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose ``top_k`` experts a token: (weights fp32 [T, k], ids int32 [T, k]), best first, ties to the lower id.

    logits, bias fp32 [T, E], [E]. Scores are s = sigmoid(logits). Chosen by s + bias among the best ``topk_group`` of
    ``n_group`` groups, a group's score being the sum of its two best; weighed by s, normalised to sum 1 if
    ``normalize``, times ``scale`` (loss-free balancing, arXiv 2408.15664, as in DeepSeek-V3, 2412.19437).
    Raises ``ContractError``.
    """
    if impl is None:
        done = _ROUTE.direct(logits, bias, top_k, n_group, topk_group, scale, normalize)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        logits.dim() == 2
        and bias.dim() == 1
        and logits.shape[1] == bias.shape[0]
        and logits.dtype == bias.dtype == torch.float32
        and logits.device == bias.device
        and 1 <= topk_group <= n_group
        and logits.shape[1] % n_group == 0
        and 1 <= top_k <= topk_group * (logits.shape[1] // n_group)
    ):
        _reject_route(logits, bias, top_k, n_group, topk_group)
    kernel = _ROUTE.kernel(logits.device, (logits.dtype, bias.dtype), (logits.shape[1], top_k), "dense", impl)
    result: tuple[Tensor, Tensor] = kernel(logits, bias, top_k, n_group, topk_group, scale, normalize)
    return result


def _reject_route(logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int) -> None:
    operation = "moe.route_sigmoid"
    contract.shape(operation, "logits", logits, "T", "E")
    experts = logits.shape[1]
    contract.shape(operation, "bias", bias, experts)
    contract.dtype(operation, "logits", logits, torch.float32)
    contract.dtype(operation, "bias", bias, torch.float32)
    contract.device(operation, logits, bias=bias)
    if n_group < 1 or experts % n_group:
        contract.fail(operation, "n_group", f"a divisor of the {experts} experts", n_group)
    if not 1 <= topk_group <= n_group:
        contract.fail(operation, "topk_group", f"from 1 to n_group = {n_group}", topk_group)
    contract.fail(
        operation, "top_k", f"from 1 to {topk_group * (experts // n_group)}, the experts of the open groups", top_k
    )


def prepare_experts(gate_up: ExpertSource, down: ExpertSource, *, keep_source: bool = False) -> ExpertWeights:
    """Bring a layer's routed experts to the form that the chosen kernel reads.

    gate_up [E, 2I, D] (gate rows, then up rows) and down [E, D, I], both ``Int4Weight`` or both fp32 or bf16 tensors.
    The result does not refer to them where it is packed, so the caller may drop them. Raises ``ContractError``.
    """
    kind, dtype, device = checked(gate_up, down)
    experts, rows, hidden = gate_up.shape
    dims = (experts, hidden, rows // 2)
    packs = _EXPERTS.choose(device, (torch.float32, dtype), dims, f"{kind}:source+packed").prepare
    packed = None if packs is None else packs(gate_up, down)
    keep = packed is None or keep_source or settings.current().keep_source
    first, second = (gate_up, down) if keep else (None, None)
    return ExpertWeights(experts, hidden, rows // 2, kind, dtype, device, first, second, packed)


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

    x [T, D] fp32 or bf16, weights fp32 [T, k], ids int32 [T, k] from ``route_sigmoid``; an id outside of [0, E) is
    skipped (its expert lives elsewhere). ``shared`` is a shared expert from ``gemm.prepare_mlp``.
    Sums are fp32. Raises ``ContractError``.
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
        and weights.shape[0] == x.shape[0]
        and weights.dtype == torch.float32
        and ids.dtype == torch.int32
        and x.device == weights.device == ids.device == layer.device
    ) or (shared is not None and shared.gate_up.k != layer.hidden):
        _reject_experts(x, weights, ids, layer, shared)
    format = layer.format if shared is None else f"{layer.format}+shared:{shared.format}"
    dims = (layer.experts, layer.hidden, layer.inter)
    kernel = _EXPERTS.kernel(x.device, (x.dtype, layer.dtype), dims, format, impl)
    result: Tensor = kernel(x, weights, ids, layer, shared)
    return result


def _reject_experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> None:
    operation = "moe.experts"
    contract.shape(operation, "x", x, "T", layer.hidden)
    contract.shape(operation, "weights", weights, x.shape[0], "k")
    contract.shape(operation, "ids", ids, *weights.shape)
    contract.dtype(operation, "weights", weights, torch.float32)
    contract.dtype(operation, "ids", ids, torch.int32)
    contract.device(operation, x, weights=weights, ids=ids)
    if shared is not None and shared.gate_up.k != layer.hidden:
        contract.fail(operation, "shared", f"of width {layer.hidden} like the routed experts", f"{shared.gate_up.k}")
    contract.fail(operation, "layer", f"on {x.device} like x", f"weights on {layer.device}")


def _formats(routed: set[str], shared: set[str]) -> frozenset[str]:
    """Every format whose routed experts, and shared one if any, hold one of these forms."""
    alone = {f"{kind}:{form}" for kind in ("dense", "int4") for form in routed}
    return frozenset(alone | {f"{first}+shared:{form}" for first in alone for form in shared})


_register.reference(_ROUTE, reference.route_sigmoid)
_register.reference(
    _EXPERTS, reference.experts, _formats({"source", "source+packed"}, {"dense", "packed", "dense+packed"})
)
_register.native(
    _ROUTE, "moe.cpu:route_sigmoid", {"logits": frozenset({torch.float32})}, direct="moe.cpu:direct_route_sigmoid"
)
_register.native(
    _EXPERTS,
    "moe.cpu:experts",
    {"x": contract.FLOATS, "weight": contract.FLOATS},
    formats=_formats({"packed", "source+packed"}, {"packed", "dense+packed"}),
    prepare="moe.cpu:pack",
    direct="moe.cpu:direct_experts",
)
