"""Sampling of the next token: the draw, what is done to logits before it, what is read from them, and speculation.

Legend: B rows, V vocabulary.
"""

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._arguments import FP32, check
from .._public import public
from . import reference
from .edit import apply_bias, apply_mask, apply_penalties, count_tokens, pack_mask
from .parameters import check_draw
from .report import Logprobs, argmax, logprobs
from .speculation import Verified, verify

__all__ = [
    "Logprobs",
    "Verified",
    "apply_bias",
    "apply_mask",
    "apply_penalties",
    "argmax",
    "count_tokens",
    "logprobs",
    "pack_mask",
    "sample",
    "verify",
]

_SAMPLE = Operation(
    "sampling.sample", dtypes=("logits",), dims=("V",), summary="temperature, top-k, top-p, min-p and the draw"
)
_PARAMETERS = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "seeds": torch.int64,
    "positions": torch.int64,
}


@public
def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    min_p: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Choose one token a row: int32 [B].

    logits fp32 [B, V]; temperature, top_p, min_p fp32 [B]; top_k int32 [B]; seeds, positions int64 [B].

    Temperature 0 (or below) takes the highest logit, the lowest index of equals. Otherwise, in this order: softmax of
    logits / temperature; top_k keeps the k most probable (off at 0 or below, or from V up; of equals the lower index);
    top_p keeps the shortest prefix, best first, of what is left whose renormalised mass reaches it (one token at least;
    off from 1 up); min_p drops what is less probable than it times the most probable (off at 0; at most 1); the draw is
    the inverse CDF over the kept tokens in index order, at a number that depends on (seed, position) alone
    (splitmix64), so a request draws the same tokens in any batch. NaN logits count as -inf; a row that
    has nothing above -inf gives -1. Raises ``ContractError``, on a CPU and in debug mode also for temperatures that are
    not finite and for a top_p or min_p of NaN.
    """
    if impl is None and min_p is None:
        done = _SAMPLE.direct(logits, temperature, top_k, top_p, seeds, positions)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        logits.dim() == 2
        and logits.shape[1] > 0
        and logits.dtype == temperature.dtype == top_p.dtype == torch.float32
        and seeds.dtype == positions.dtype == torch.int64
        and top_k.dtype == torch.int32
        and temperature.shape == top_k.shape == top_p.shape == seeds.shape == positions.shape == logits.shape[:1]
        and logits.device == temperature.device == top_k.device == top_p.device == seeds.device == positions.device
    ):
        _reject(logits, temperature=temperature, top_k=top_k, top_p=top_p, seeds=seeds, positions=positions)
    check("sampling.sample", logits.device, optional=("min_p",), min_p=(min_p, (logits.shape[0],), FP32))
    if contract.debug():
        check_draw("sampling.sample", temperature, top_p, min_p)
    kernel = _SAMPLE.kernel(logits.device, (logits.dtype,), (logits.shape[1],), "dense", impl)
    result: Tensor = kernel(logits, temperature, top_k, top_p, seeds, positions, min_p)
    return result


def _reject(logits: Tensor, **parameters: Tensor) -> None:
    operation = "sampling.sample"
    contract.shape(operation, "logits", logits, "B", "V")
    contract.dtype(operation, "logits", logits, torch.float32)
    for name, tensor in parameters.items():
        contract.shape(operation, name, tensor, logits.shape[0])
        contract.dtype(operation, name, tensor, _PARAMETERS[name])
    contract.device(operation, logits, **parameters)
    contract.fail(operation, "logits", "[B, V] with V at least 1", logits)


_register.reference(_SAMPLE, reference.sample, {"logits": frozenset(FP32)})
_register.native(
    _SAMPLE, "sampling.cpu:sample", {"logits": frozenset({torch.float32})}, direct="sampling.cpu:direct_sample"
)
_register.triton(_SAMPLE, "sampling.triton.draw:sample", {"logits": frozenset({torch.float32})})
