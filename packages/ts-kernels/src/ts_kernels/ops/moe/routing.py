"""Choice of experts. Legend: T tokens, E experts, k experts a token."""

import torch
from torch import Tensor

from ... import contract
from ...registry import at_most
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference

_SIGMOID = Operation(
    "moe.route_sigmoid",
    dtypes=("logits", "bias"),
    dims=("E", "k"),
    limits=(at_most("k", "E"),),
    summary="sigmoid scores, biased choice of k within groups",
)
_SOFTMAX = Operation(
    "moe.route_softmax",
    dtypes=("logits",),
    dims=("E", "k"),
    limits=(at_most("k", "E"),),
    summary="the k largest, weighed by a softmax",
)


@public
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
    ``normalize``, times ``scale`` (loss-free balancing, arXiv 2408.15664, as in DeepSeek-V3, 2412.19437). NaN is chosen
    after all numbers, and a row with a logit of NaN has weights of NaN. Raises ``ContractError``.
    """
    if not -contract.MOST_FLOAT <= scale <= contract.MOST_FLOAT:
        contract.finite(_SIGMOID.name, "scale", scale)
    if impl is None:
        done = _SIGMOID.direct(logits, bias, top_k, n_group, topk_group, scale, normalize)
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
        _reject_sigmoid(logits, bias, top_k, n_group, topk_group)
    kernel = _SIGMOID.kernel(logits.device, (logits.dtype, bias.dtype), (logits.shape[1], top_k), "dense", impl)
    result: tuple[Tensor, Tensor] = kernel(logits, bias, top_k, n_group, topk_group, scale, normalize)
    return result


def _reject_sigmoid(logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int) -> None:
    operation = _SIGMOID.name
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


@public
def route_softmax(
    logits: Tensor, top_k: int, *, normalize: bool, scale: float = 1.0, impl: str | None = None
) -> tuple[Tensor, Tensor]:
    """Choose the ``top_k`` largest logits: (weights fp32 [T, k], ids int32 [T, k]), best first, ties to the lower id.

    logits fp32 [T, E]. Weights are the softmax over all experts (Qwen3-MoE without ``norm_topk_prob``, Mixtral's
    probabilities); ``normalize`` makes a token's weights sum to 1, which is the same as the softmax over its chosen
    logits alone (Qwen3-MoE with ``norm_topk_prob``, GPT-OSS). Times ``scale``. NaN is chosen after all numbers; a row
    with a logit of NaN or +inf, or none above -inf, has weights of NaN. Raises ``ContractError``.
    """
    if impl is None:
        done = _SOFTMAX.direct(logits, top_k, scale, normalize)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if logits.dim() != 2 or logits.dtype != torch.float32 or not 1 <= top_k <= logits.shape[1]:
        contract.shape(_SOFTMAX.name, "logits", logits, "T", "E")
        contract.dtype(_SOFTMAX.name, "logits", logits, torch.float32)
        contract.fail(_SOFTMAX.name, "top_k", f"from 1 to the {logits.shape[1]} experts", top_k)
    contract.finite(_SOFTMAX.name, "scale", scale)
    kernel = _SOFTMAX.kernel(logits.device, (logits.dtype,), (logits.shape[1], top_k), "dense", impl)
    result: tuple[Tensor, Tensor] = kernel(logits, top_k, scale, normalize)
    return result


_LOGITS = {"logits": frozenset({torch.float32})}
_register.reference(_SIGMOID, reference.route_sigmoid, {**_LOGITS, "bias": _LOGITS["logits"]})
_register.native(_SIGMOID, "moe.cpu:route_sigmoid", _LOGITS, direct="moe.cpu:direct_route_sigmoid")
_register.triton(_SIGMOID, "moe.triton.route:route_sigmoid", _LOGITS)
_register.reference(_SOFTMAX, reference.route_softmax, _LOGITS)
_register.native(_SOFTMAX, "moe.cpu:route_softmax", _LOGITS, direct="moe.cpu:direct_route_softmax")
_register.triton(_SOFTMAX, "moe.triton.route:route_softmax", _LOGITS)
