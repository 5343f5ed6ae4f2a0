"""What is read from logits besides a draw: the highest, log probabilities, ranks. Legend: B rows, V vocabulary."""

from typing import NamedTuple

from torch import Tensor

from ... import contract
from ...registry import Trait, at_most
from ...selection import Operation
from .. import _register
from .._arguments import FLOATS, FP32, INT32, check
from .._public import public
from . import reference, reference_logits

_ARGMAX = Operation("sampling.argmax", dtypes=("logits",), dims=("V",), summary="the highest logit of each row")
_LOGPROBS = Operation(
    "sampling.logprobs",
    dtypes=("logits",),
    dims=("V", "n"),
    empty=("n",),
    limits=(at_most("n", "V"),),
    summary="log probability and rank, and the best n",
)


class Logprobs(NamedTuple):
    """``chosen`` fp32 [B], ``ranks`` int32 [B], ``top_ids`` int32 [B, n], ``top_values`` fp32 [B, n], best first."""

    chosen: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_values: Tensor


@public
def argmax(logits: Tensor, *, impl: str | None = None) -> Tensor:
    """The highest logit's index, the lowest of equals: int32 [B].

    logits fp32 or bf16 [B, V]. NaN counts as minus infinity; a row with nothing above that gives -1.
    Raises ``ContractError``.
    """
    operation = "sampling.argmax"
    contract.shape(operation, "logits", logits, "B", "V")
    contract.dtype(operation, "logits", logits, *FLOATS)
    if logits.shape[1] == 0:
        contract.fail(operation, "logits", "[B, V] with V at least 1", logits)
    result: Tensor = _ARGMAX.kernel(logits.device, (logits.dtype,), (logits.shape[1],), "dense", impl)(logits)
    return result


@public
def logprobs(logits: Tensor, tokens: Tensor, n: int, *, impl: str | None = None) -> Logprobs:
    """Log-softmax of each row at its token, the token's rank, and the ``n`` best tokens with their values.

    logits fp32 [B, V]; tokens int32 [B]; n from 0 to V. Ranks count from 1, ties go to the lower index, as in the list
    of the best. NaN logits count as minus infinity. A negative token has log probability minus infinity and rank 0.
    Raises ``ContractError``.
    """
    operation = "sampling.logprobs"
    contract.shape(operation, "logits", logits, "B", "V")
    rows, vocab = logits.shape
    check(operation, logits.device, logits=(logits, (rows, vocab), FP32), tokens=(tokens, (rows,), INT32))
    if vocab == 0:
        contract.fail(operation, "logits", "[B, V] with V at least 1", logits)
    if not 0 <= n <= vocab:
        contract.fail(operation, "n", f"from 0 to V = {vocab}", n)
    if contract.debug():
        contract.below(operation, "tokens", tokens, vocab)
    kernel = _LOGPROBS.kernel(logits.device, (logits.dtype,), (vocab, n), "dense", impl)
    return Logprobs(*kernel(logits, tokens, n))


_register.reference(_ARGMAX, reference.argmax, {"logits": contract.FLOATS})
_register.reference(_LOGPROBS, reference_logits.logprobs, {"logits": frozenset(FP32)})
_register.native(_ARGMAX, "sampling.cpu:argmax", {"logits": contract.FLOATS})
_register.native(_LOGPROBS, "sampling.cpu:logprobs", {"logits": frozenset(FP32)})
_register.triton(_ARGMAX, "sampling.triton.report:argmax", {"logits": contract.FLOATS})
_register.triton(
    _LOGPROBS,
    "sampling.triton.report:logprobs",
    {"logits": frozenset(FP32)},
    traits=(Trait("n at most 128", lambda dims: dims["n"] <= 128),),
)
