"""The core as messages: what the entry sends becomes calls, what the core plans and settles becomes messages."""

import hashlib
import time
from collections import deque
from typing import Any, Final

import msgspec
from ts_protocol.config import SchedulerConfig
from ts_protocol.messages import (
    Abort,
    KvCapacity,
    Rejected,
    RequestFailed,
    SamplingParams,
    Stats,
    StepResult,
    Submit,
    TokenOutput,
)
from ts_protocol.wire import IntArray

from ts_scheduler._core import CacheGroup, Config, Scheduler
from ts_scheduler.errors import ConfigError

NO_TOKEN: Final = "The model gave no usable numbers for this request (NaN or infinity), so it has ended; others go on."
PlanFrames = tuple[bytes, bytes, bytes, bytes, bytes]
"""A ``StepPlan`` as it goes to the workers: the encoded message and its int32 frames rows, tokens, pages, states."""

LIMITS: Final = (
    "chunk_tokens",
    "max_queued",
    "prefix_caching",
    "max_queued_tokens",
    "max_queued_per_user",
    "priority_tokens",
    "tool_wait_steps",
    "new_prompt_wait_steps",
    "growth_room",
    "min_tps",
)
"""What ``SchedulerConfig`` decides about the core; the rest comes from the workers."""


def limits_of(config: SchedulerConfig) -> dict[str, Any]:
    """The keyword arguments of ``Engine`` that a configuration stands for."""
    return {name: getattr(config, name) for name in LIMITS}


def well_formed(sampling: SamplingParams) -> bool:
    """Whether a worker can sample with these parameters."""
    return 0 <= sampling.temperature < float("inf") and 0 < sampling.top_p <= 1 and 0 <= sampling.top_k < 2**31


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest() if text else b""


class Engine:
    """The core behind messages."""

    def __init__(self, kv: KvCapacity, **limits: Any) -> None:
        """``limits`` are those of ``_core.Config`` that the workers do not decide: see ``LIMITS``.

        Raises ``ConfigError`` naming the field that is out of range.
        """
        try:
            self._core = Scheduler(
                Config(
                    page_size=kv.page_size,
                    num_pages=kv.num_pages,
                    max_num_seqs=kv.max_num_seqs,
                    max_model_len=kv.max_model_len,
                    vocab_size=kv.vocab_size,
                    groups=[CacheGroup(**msgspec.structs.asdict(group)) for group in kv.groups],
                    **limits,
                )
            )
        except ValueError as error:
            raise ConfigError(f"the scheduler cannot be configured so: {error}") from None
        except TypeError:  # an integer beyond 32 bits
            raise ConfigError("the scheduler's limits are integers below 2^31; lower the largest") from None
        self._live: dict[int, None] = {}  # in order of arrival
        self._planned: deque[int] = deque()
        """When the steps in flight were planned, in nanoseconds."""
        self._settled = 0

    @property
    def live_requests(self) -> list[int]:
        """Requests that have been taken and have not ended."""
        return list(self._live)

    def submit(self, message: Submit, prompt: IntArray) -> Rejected | None:
        """Take a request, or say why not."""
        if not well_formed(message.sampling):
            reason = f"{message.sampling}: temperature >= 0, 0 < top_p <= 1 and 0 <= top_k < 2**31 are needed"
            return Rejected(message.request_id, "invalid", reason)
        try:
            rejection = self._core.submit(
                message.request_id,
                prompt,
                message.max_tokens,
                message.stop_token_ids,
                priority=message.priority,
                user=int.from_bytes(_digest(message.user, 8), signed=True),
                session=message.session,
                cache_salt=_digest(message.cache_salt, 16),
                sampling=msgspec.msgpack.encode(message.sampling),
            )
        except TypeError:  # an integer beyond 64 bits, which msgpack can carry
            return Rejected(message.request_id, "invalid", "request_id, max_tokens and stop ids are 64-bit integers")
        if rejection is not None:
            return Rejected(message.request_id, rejection.code, rejection.message)
        self._live[message.request_id] = None
        return None

    def abort(self, message: Abort) -> TokenOutput | None:
        """End a request: its last output, or ``None`` if it is unknown or has ended."""
        if message.request_id not in self._live:
            return None
        del self._live[message.request_id]
        self._core.abort(message.request_id)
        return TokenOutput(message.request_id, (), 0, "abort")

    def plan(self) -> PlanFrames | None:
        """The next step, if one may be sent now."""
        frames = self._core.plan_frames()
        if frames is not None:
            self._planned.append(time.monotonic_ns())
        return frames

    def settle(self, message: StepResult, tokens: IntArray) -> tuple[bytes, list[RequestFailed]]:
        """Take a step's result; what it gave, for the entry: an encoded ``TokenBatch``, empty for none.

        Raises:
            SettleError: it does not fit what was planned.
        """
        now = time.monotonic_ns()
        duration = message.duration_ns
        if duration == 0 and self._planned:
            duration = now - max(self._planned[0], self._settled)
        try:
            batch, finished, unusable = self._core.settle_frames(message.step, tokens, duration, message.accepted)
        except TypeError:  # as in submit
            batch, finished, unusable = self._core.settle_frames(-1, tokens, 0)
        self._planned.popleft()
        self._settled = now
        for request_id in (*finished, *unusable):
            del self._live[request_id]
        return batch, [RequestFailed(request_id, NO_TOKEN) for request_id in unusable]

    def stats(self) -> Stats:
        """Counters and gauges of now."""
        stats = self._core.stats()
        return Stats(**{field: getattr(stats, field) for field in _STATS_FIELDS})


_STATS_FIELDS = tuple(field.name for field in msgspec.structs.fields(Stats))
