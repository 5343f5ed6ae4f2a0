"""What is done to logits before a draw: penalties, bias, masks. Legend: B rows, V vocabulary, S slots."""

import torch
from torch import Tensor

from ... import contract
from ...selection import Operation
from .. import _register
from .._arguments import FP32, INT16, INT32, INT64, check
from .._public import public
from . import reference_logits
from .parameters import check_penalties

_DTYPES, _DIMS = ("logits",), ("V",)
_COUNT = Operation(
    "sampling.count_tokens", dtypes=("counts",), dims=_DIMS, empty=_DIMS, summary="count a step's tokens by request"
)
_PENALTIES = Operation(
    "sampling.apply_penalties", dtypes=_DTYPES, dims=_DIMS, summary="repetition, presence and frequency penalties"
)
_BIAS = Operation("sampling.apply_bias", dtypes=_DTYPES, dims=_DIMS, summary="add sparse biases to logits")
_MASK = Operation("sampling.apply_mask", dtypes=_DTYPES, dims=_DIMS, summary="close tokens by a packed bitmask")


@public
def count_tokens(counts: Tensor, slots: Tensor, tokens: Tensor, *, prompt: bool, impl: str | None = None) -> None:
    """Record tokens in ``counts``, in place: as of the prompt, or as one more of the output.

    counts int16 [S, V], one row a request: the sign bit says that the token is in the prompt, the other 15 bits how
    often it was output (they stop at 32767). slots int64 [B], distinct; tokens int32 [B, N], N of each slot.
    Negative slots and tokens are padding. A new request's row must be zeroed first. Raises ``ContractError``.
    """
    operation = "sampling.count_tokens"
    contract.shape(operation, "counts", counts, "S", "V")
    contract.shape(operation, "slots", slots, "B")
    rows = (slots.shape[0],)
    check(operation, counts.device, counts=(counts, counts.shape, INT16), slots=(slots, rows, INT64))
    check(operation, counts.device, tokens=(tokens, (*rows, "N"), INT32))
    contract.contiguous(operation, "counts", counts)
    if contract.debug():
        contract.below(operation, "slots", slots, counts.shape[0])
        contract.distinct(operation, "slots", slots)
        contract.below(operation, "tokens", tokens, counts.shape[1])
    kernel = _COUNT.kernel(counts.device, (counts.dtype,), (counts.shape[1],), "dense", impl)
    kernel(counts, slots, tokens, prompt)


@public
def apply_penalties(
    logits: Tensor,
    counts: Tensor,
    slots: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
    *,
    impl: str | None = None,
) -> None:
    """Penalize tokens that a request has seen, in place.

    logits fp32 [B, V]; counts int16 [S, V] as ``count_tokens`` keeps them; slots int64 [B], negative for a row that is
    left alone; repetition (1 is off), presence and frequency (0 is off) fp32 [B]. Tokens of prompt or output have
    positive logits divided by the repetition penalty and others multiplied (arXiv 1909.05858); then frequency times the
    count and presence once are taken off tokens of the output. Raises ``ContractError``, on a CPU and in debug mode
    also for penalties that are not finite.
    """
    operation = "sampling.apply_penalties"
    rows, vocab = _checked_logits(operation, logits)
    check(
        operation,
        logits.device,
        counts=(counts, ("S", vocab), INT16),
        slots=(slots, (rows,), INT64),
        repetition=(repetition, (rows,), FP32),
        presence=(presence, (rows,), FP32),
        frequency=(frequency, (rows,), FP32),
    )
    contract.contiguous(operation, "counts", counts)
    if contract.debug():
        contract.below(operation, "slots", slots, counts.shape[0])
        check_penalties(operation, slots, repetition, presence, frequency)
    kernel = _PENALTIES.kernel(logits.device, (logits.dtype,), (vocab,), "dense", impl)
    kernel(logits, counts, slots, repetition, presence, frequency)


@public
def apply_bias(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor, *, impl: str | None = None) -> None:
    """``logits[rows[i], tokens[i]] += values[i]``, in place; minus infinity bans a token.

    logits fp32 [B, V]; rows, tokens int32 [N]; values fp32 [N]. A negative row is padding. No two entries may be equal
    in both row and token. Raises ``ContractError``.
    """
    operation = "sampling.apply_bias"
    batch, vocab = _checked_logits(operation, logits)
    contract.shape(operation, "rows", rows, "N")
    entries = (rows.shape[0],)
    check(
        operation,
        logits.device,
        rows=(rows, entries, INT32),
        tokens=(tokens, entries, INT32),
        values=(values, entries, FP32),
    )
    if contract.debug():
        used = rows >= 0
        contract.below(operation, "rows", rows, batch)
        contract.in_range(operation, "tokens", tokens[used], 0, vocab)
        contract.distinct(operation, "rows * V + tokens", rows[used].long() * vocab + tokens[used])
    _BIAS.kernel(logits.device, (logits.dtype,), (vocab,), "dense", impl)(logits, rows, tokens, values)


@public
def apply_mask(logits: Tensor, mask: Tensor, rows: Tensor | None = None, *, impl: str | None = None) -> None:
    """Close, in place, each token whose bit is 0: its logit becomes minus infinity.

    logits fp32 [B, V]; mask int32 [M, ceil(V / 32)], token t in bit t % 32 of word t // 32 (the layout of xgrammar and
    llguidance). rows int64 [B] gives each row's line of the mask, negative for a row that is free; without it the mask
    has a line a row. Raises ``ContractError``.
    """
    operation = "sampling.apply_mask"
    batch, vocab = _checked_logits(operation, logits)
    lines: int | str = batch if rows is None else "M"
    check(
        operation,
        logits.device,
        optional=("rows",),
        mask=(mask, (lines, -(-vocab // 32)), INT32),
        rows=(rows, (batch,), INT64),
    )
    contract.contiguous(operation, "mask", mask)
    if contract.debug() and rows is not None:
        contract.below(operation, "rows", rows, mask.shape[0])
    _MASK.kernel(logits.device, (logits.dtype,), (vocab,), "dense", impl)(logits, mask, rows)


@public
def pack_mask(tokens: Tensor, vocab: int, *, allowed: bool) -> Tensor:
    """The line of a mask, int32 [ceil(V / 32)], that opens just ``tokens`` (int [N]), or all but them.

    Made once for a request whose tokens are limited to a list. Raises ``ContractError``.
    """
    operation = "sampling.pack_mask"
    contract.shape(operation, "tokens", tokens, "N")
    contract.dtype(operation, "tokens", tokens, torch.int32, torch.int64)
    contract.readable(operation, "tokens", tokens)
    if tokens.is_meta:
        contract.fail(operation, "tokens", "on a device that holds numbers", tokens)
    if vocab < 1:
        contract.fail(operation, "vocab", "at least 1", vocab)
    contract.bounded(operation, "vocab", vocab)
    contract.in_range(operation, "tokens", tokens, 0, vocab)
    words = -(-vocab // 32)
    opened = torch.full((words * 32,), not allowed, dtype=torch.bool, device=tokens.device)
    opened[tokens.long()] = allowed
    places = torch.arange(32, device=tokens.device)
    packed = (opened.view(words, 32).long() << places).sum(1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def _checked_logits(operation: str, logits: Tensor) -> tuple[int, int]:
    contract.shape(operation, "logits", logits, "B", "V")
    contract.dtype(operation, "logits", logits, torch.float32)
    contract.dense_rows(operation, "logits", logits)
    contract.apart(operation, "logits", logits)
    rows, vocab = logits.shape
    if vocab == 0:
        contract.fail(operation, "logits", "[B, V] with V at least 1", logits)
    return rows, vocab


_LOGITS, _COUNTS = {"logits": frozenset(FP32)}, {"counts": frozenset(INT16)}
for _operation, _name, _types in (
    (_COUNT, "count_tokens", _COUNTS),
    (_PENALTIES, "apply_penalties", _LOGITS),
    (_BIAS, "apply_bias", _LOGITS),
    (_MASK, "apply_mask", _LOGITS),
):
    _register.reference(_operation, getattr(reference_logits, _name), _types)
    _register.native(_operation, f"sampling.cpu:{_name}", _types)
    _register.triton(_operation, f"sampling.triton.edit:{_name}", _types)
