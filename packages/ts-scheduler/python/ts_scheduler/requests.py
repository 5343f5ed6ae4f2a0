"""The core as messages: what the entry sends becomes calls, what the core plans and settles becomes messages."""

from collections import deque
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from ts_protocol.messages import (
    ROW_SAMPLE,
    UNUSABLE,
    Abort,
    KvCapacity,
    Rejected,
    RequestFailed,
    SamplingParams,
    SlotAdmit,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    TokenOutput,
)
from ts_protocol.wire import IntArray

from ts_scheduler._core import Config, Scheduler
from ts_scheduler.errors import ConfigError

NO_TOKEN: Final = "The model gave no usable numbers for this request (NaN or infinity), so it has ended; others go on."
PlanFrames = tuple[StepPlan, IntArray, IntArray, IntArray]


def well_formed(sampling: SamplingParams) -> bool:
    """Whether a worker can sample with these parameters."""
    return 0 <= sampling.temperature < float("inf") and 0 < sampling.top_p <= 1 and 0 <= sampling.top_k < 2**31


class Engine:
    """The core behind messages. Owns what the core does not need to know: how each request samples."""

    def __init__(self, kv: KvCapacity, *, chunk_tokens: int, max_queued: int, prefix_caching: bool) -> None:
        """``max_queued`` requests may wait beyond those that the slots can run, whenever they are to be planned.

        Raises ``ConfigError`` naming the field that is out of range.
        """
        if max_queued < 1:
            raise ConfigError(f"the scheduler cannot be configured so: max_queued is {max_queued}; it is at least 1")
        self._most = min(kv.max_num_seqs, chunk_tokens) + max_queued
        try:
            self._core = Scheduler(
                Config(
                    page_size=kv.page_size,
                    num_pages=kv.num_pages,
                    max_num_seqs=kv.max_num_seqs,
                    max_model_len=kv.max_model_len,
                    vocab_size=kv.vocab_size,
                    chunk_tokens=chunk_tokens,
                    max_queued=self._most,  # ours is the closer bound
                    prefix_caching=prefix_caching,
                )
            )
        except ValueError as error:
            raise ConfigError(f"the scheduler cannot be configured so: {error}") from None
        except TypeError:  # an integer beyond 32 bits
            raise ConfigError("the scheduler's limits are integers below 2^31; lower the largest") from None
        self._sampling: dict[int, SamplingParams] = {}
        self._owners: dict[int, int] = {}
        """Slot to request, as of the last plan; never changed in place."""
        self._in_flight: deque[tuple[IntArray, dict[int, int]]] = deque()
        """Rows and owners of the steps that have not settled."""

    @property
    def live_requests(self) -> list[int]:
        """Requests that have been taken and have not ended."""
        return list(self._sampling)

    def submit(self, message: Submit, prompt: IntArray) -> Rejected | None:
        """Take a request, or say why not."""
        if not well_formed(message.sampling):
            reason = f"{message.sampling}: temperature >= 0, 0 < top_p <= 1 and 0 <= top_k < 2**31 are needed"
            return Rejected(message.request_id, "invalid", reason)
        if len(self._sampling) >= self._most:
            reason = f"{self._most} requests run or wait already (see max_num_seqs and max_queued); try again later"
            return Rejected(message.request_id, "queue_full", reason)
        try:
            rejection = self._core.submit(message.request_id, prompt, message.max_tokens, message.stop_token_ids)
        except TypeError:  # an integer beyond 64 bits, which msgpack can carry
            return Rejected(message.request_id, "invalid", "request_id, max_tokens and stop ids are 64-bit integers")
        if rejection is not None:
            return Rejected(message.request_id, rejection.code, rejection.message)
        self._sampling[message.request_id] = message.sampling
        return None

    def abort(self, message: Abort) -> TokenOutput | None:
        """End a request: its last output, or ``None`` if it is unknown or has ended."""
        if self._sampling.pop(message.request_id, None) is None:
            return None
        self._core.abort(message.request_id)
        return TokenOutput(message.request_id, (), 0, "abort")

    def plan(self) -> PlanFrames | None:
        """The next step and its frames (rows, tokens, pages), if one may be sent now."""
        plan = self._core.plan()
        if plan is None:
            return None
        admits = [SlotAdmit(slot, self._sampling[request_id]) for slot, request_id in plan.admits]
        if admits:
            self._owners = self._owners | dict(plan.admits)
        self._in_flight.append((plan.rows, self._owners))
        return StepPlan(plan.step, admits, plan.releases), plan.rows, plan.tokens, plan.pages

    def settle(self, message: StepResult, tokens: IntArray) -> list[TokenBatch | RequestFailed]:
        """Take a step's result; what it gave, for the entry.

        Raises:
            SettleError: it does not fit what was planned.
        """
        unusable = tokens == UNUSABLE
        if not unusable.any():
            return self._settle(message.step, tokens)
        # Ended before the core settles, so that no page of theirs gets into the prefix index.
        failed = [RequestFailed(request_id, NO_TOKEN) for request_id in self._end(unusable)]
        return [*self._settle(message.step, np.where(unusable, np.int32(0), tokens)), *failed]

    def _settle(self, step: int, tokens: IntArray) -> list[TokenBatch | RequestFailed]:
        outputs = []
        for request_id, token, cached_tokens, finish in self._core.settle(step, tokens):
            if finish is not None:
                del self._sampling[request_id]
            outputs.append(TokenOutput(request_id, (token,), cached_tokens, finish))
        self._in_flight.popleft()
        return [TokenBatch(outputs)] if outputs else []

    def _end(self, unusable: npt.NDArray[np.bool_]) -> list[int]:
        """End the requests of these sampling rows of the oldest step; those that had not ended already."""
        if not self._in_flight:
            return []
        rows, owners = self._in_flight[0]
        slots = rows[(rows[:, 3] & ROW_SAMPLE) != 0, 0]
        chosen = [owners[slot] for slot, bad in zip(slots.tolist(), unusable.tolist(), strict=False) if bad]
        return [request_id for request_id in chosen if self.abort(Abort(request_id)) is not None]

    def stats(self) -> Stats:
        """Counters and gauges of now."""
        stats = self._core.stats()
        return Stats(**{field: getattr(stats, field) for field in _STATS_FIELDS})


_STATS_FIELDS = tuple(field.name for field in msgspec.structs.fields(Stats))
