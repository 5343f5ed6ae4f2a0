"""Verification of drafted tokens. Legend: B rows, K drafts, V vocabulary."""

from typing import NamedTuple

from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._arguments import FP32, INT32, INT64, check
from .._public import public
from . import reference_verify
from .parameters import check_draw

_VERIFY = Operation(
    "sampling.verify", dtypes=("logits",), dims=("V", "K"), summary="which drafted tokens stand, and the token after"
)


class Verified(NamedTuple):
    """``accepted`` int32 [B]: how many of a row's drafts stand; ``bonus`` int32 [B]: the token after them."""

    accepted: Tensor
    bonus: Tensor


@public
def verify(
    logits: Tensor,
    drafts: Tensor,
    counts: Tensor,
    draft_probs: Tensor | None,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    min_p: Tensor | None = None,
    impl: str | None = None,
) -> Verified:
    """Accept a prefix of each row's drafts so that what comes out is distributed as if there were no drafts.

    logits fp32 [B, K+1, V] of the target model: place j sees drafts before j. drafts int32 [B, K], of which the first
    counts[b] (int32 [B], from 0 to K) are meant. draft_probs fp32 [B, K, V], normalised: what each draft was drawn
    from; None where the draft model was greedy. The parameters are those of ``sample``, fp32, int32 or int64 [B];
    positions are of the first draft.

    Without ``draft_probs``, a draft stands where it is the token that ``sample`` draws at its place, and the bonus is
    what it draws after them: the tokens are those of a request without speculation. With them, a draft x stands with
    probability min(1, p(x) / q(x)), the first that falls is redrawn from max(p - q, 0) (arXiv 2211.17192), and a row
    whose drafts all stand draws its bonus as ``sample`` does; these random numbers depend on seed and position alone,
    and are others than those that ``sample`` (and so a draft model) draws by. A bonus of -1 says that there is nothing
    to choose at its place. Raises ``ContractError``, for values of the parameters where ``sample`` does.
    """
    operation = "sampling.verify"
    contract.shape(operation, "logits", logits, "B", "K+1", "V")
    rows, places, vocab = logits.shape
    if places < 2 or vocab == 0:
        contract.fail(operation, "logits", "[B, K+1, V] with K and V at least 1", logits)
    check(
        operation,
        logits.device,
        optional=("draft_probs", "min_p"),
        logits=(logits, (rows, places, vocab), FP32),
        drafts=(drafts, (rows, places - 1), INT32),
        counts=(counts, (rows,), INT32),
        draft_probs=(draft_probs, (rows, places - 1, vocab), FP32),
        temperature=(temperature, (rows,), FP32),
        top_k=(top_k, (rows,), INT32),
        top_p=(top_p, (rows,), FP32),
        min_p=(min_p, (rows,), FP32),
        seeds=(seeds, (rows,), INT64),
        positions=(positions, (rows,), INT64),
    )
    contract.contiguous(operation, "logits", logits)
    if draft_probs is not None:
        contract.contiguous(operation, "draft_probs", draft_probs)
    if contract.debug():
        contract.in_range(operation, "counts", counts, 0, places)
        contract.below(operation, "drafts", drafts, vocab)
        check_draw(operation, temperature, top_p, min_p)
        if draft_probs is not None and not bool((draft_probs >= 0).all()):
            contract.fail(operation, "draft_probs", "at least 0", "values that are not")
    kernel = _VERIFY.kernel(logits.device, (logits.dtype,), (vocab, places - 1), "dense", impl)
    arguments = (logits, drafts, counts, draft_probs, temperature, top_k, top_p, seeds, positions, min_p)
    return Verified(*kernel(*arguments))


_LOGITS = {"logits": frozenset(FP32)}
_register.reference(_VERIFY, reference_verify.verify, _LOGITS)
_register.native(_VERIFY, "sampling.cpu:verify", _LOGITS)
_register.triton(_VERIFY, "sampling.triton.verify:verify", _LOGITS)
