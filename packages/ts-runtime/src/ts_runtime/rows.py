"""The rows of a plan, checked against the slots and the limits before anything runs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ts_protocol.messages import ROW_SAMPLE, ROW_TOKEN_ON_DEVICE
from ts_protocol.wire import IntArray, slots_of

from ts_runtime.errors import PlanError
from ts_runtime.slots import Slots

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Rows:
    """Columns of the rows frame, all [n]; decodes (fed from the device) first."""

    slots: Ints
    starts: Ints
    ends: Ints
    """Sequence lengths after the step."""
    counts: Ints
    sampled: Bools
    n_decode: int
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one plan may hold."""

    page_size: int
    max_tokens: int
    """Of one step."""
    max_model_len: int
    vocab_size: int


def expand(frame: IntArray, decodes: bytes, slots: Slots) -> IntArray:
    """All rows of a plan [n, 4]: those that are bits of ``decodes``, by slot, then those of ``frame`` [m, 4].

    Raises:
        PlanError: a bit stands for a slot that cannot decode.
    """
    if not decodes:
        return frame
    index = slots_of(decodes)
    if len(decodes) > (slots.count + 7) // 8 or (len(index) and index[-1] >= slots.count):
        raise PlanError(f"the plan's decodes have bits for {8 * len(decodes)} slots; there are {slots.count}")
    wrong = index[~(slots.live[index] & slots.fed[index])]
    if len(wrong):
        raise PlanError(f"the plan decodes slots {wrong[:8]}, which serve no request or have sampled no token")
    implied = np.empty((len(index), 4), np.int32)
    implied[:, 0] = index
    implied[:, 1] = slots.length[index]
    implied[:, 2:] = 1, ROW_SAMPLE | ROW_TOKEN_ON_DEVICE
    return np.concatenate((implied, frame))


def check_rows(frame: IntArray, tokens: IntArray, slots: Slots, limits: Limits) -> Rows:
    """The rows of ``frame`` [n, 4], n >= 1, with ``tokens`` [t] for those that are not fed from the device.

    Raises:
        PlanError: they contradict the slots, each other or the limits.
    """
    columns = frame.T.astype(np.int64)
    index, starts, counts, flags = columns
    if index.min() < 0 or index.max() >= slots.count or not slots.live[index].all():
        raise PlanError(f"the plan has rows for slots {index[:8]}, and not all of them serve a request")
    if len(index) > 1 and np.bincount(index).max() > 1:
        raise PlanError(f"slot {np.bincount(index).argmax()} has more than one row in the plan")
    if counts.min() < 1 or starts.min() < 0:
        raise PlanError("the plan has a row that is empty or starts before its sequence")
    ends = starts + counts
    if ends.max() > limits.max_model_len:
        raise PlanError(f"a row ends at {ends.max()}, beyond max_model_len = {limits.max_model_len}")
    n_tokens = int(counts.sum())
    if n_tokens > limits.max_tokens:
        raise PlanError(f"the plan has {n_tokens} tokens; a step holds at most {limits.max_tokens}")
    on_device = (flags & ROW_TOKEN_ON_DEVICE) != 0
    n_decode = int(np.count_nonzero(on_device))
    _check_decodes(on_device, n_decode, counts, index, slots)
    if len(tokens) != n_tokens - n_decode:
        raise PlanError(f"the plan's rows need {n_tokens - n_decode} tokens from the host and it has {len(tokens)}")
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= limits.vocab_size):
        raise PlanError(f"token ids {tokens.min()} to {tokens.max()} exceed the vocabulary of {limits.vocab_size}")
    _check_sequences(index, starts, ends, slots, limits)
    return Rows(index, starts, ends, counts, (flags & ROW_SAMPLE) != 0, n_decode, n_tokens)


def _check_decodes(on_device: Bools, n_decode: int, counts: Ints, index: Ints, slots: Slots) -> None:
    if not on_device[:n_decode].all():
        raise PlanError("a row fed from the device comes after one that is not; decodes come first")
    if n_decode and counts[:n_decode].max() > 1:
        raise PlanError("a row fed from the device has more than one token")
    if not slots.fed[index[:n_decode]].all():
        raise PlanError("a row feeds on its slot's last token, and that slot has sampled none")


def _check_sequences(index: Ints, starts: Ints, ends: Ints, slots: Slots, limits: Limits) -> None:
    short = ends > slots.page_count[index] * limits.page_size
    if short.any():
        raise PlanError(f"slot {index[short][0]} has too few pages for {ends[short][0]} tokens")
    known = slots.length[index]
    gap = (known >= 0) & (known != starts)
    if gap.any():
        raise PlanError(f"a row of slot {index[gap][0]} starts at {starts[gap][0]}; its sequence is at {known[gap][0]}")
