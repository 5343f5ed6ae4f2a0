"""ts-scheduler as a ``Driver``."""

from __future__ import annotations

import time

import msgspec
import numpy as np
from ts_protocol.messages import StepPlan
from ts_protocol.wire import slots_of
from ts_scheduler import Config, Scheduler

from tools.bench.scheduler.cases import PAGE, VOCAB, Limits, since

SAMPLE = 1


class Ours:
    """The core through its Python binding; one step in flight while the next is planned."""

    def __init__(self, limits: Limits) -> None:
        self._core = Scheduler(
            Config(
                page_size=PAGE,
                num_pages=limits.pages,
                max_num_seqs=limits.batch,
                max_model_len=limits.longest,
                vocab_size=VOCAB,
                chunk_tokens=limits.chunk,
                max_queued=limits.queued,
            )
        )
        self._flight: tuple[StepPlan, bytes] | None = None  # message and rows
        self.us = 0.0
        self.plan_bytes: int | None = None

    @property
    def cached_tokens(self) -> int:
        return self._core.stats().prefix_hit_tokens

    @property
    def prefilled_tokens(self) -> int:
        return self._core.stats().prefill_tokens

    def submit(self, request: int, prompt: np.ndarray, max_tokens: int) -> float:
        began = time.thread_time_ns()
        rejection = self._core.submit(request, prompt, max_tokens)
        us = since(began)
        if rejection is not None:
            raise RuntimeError(rejection.message)
        return us

    def step(self) -> list[int]:
        tokens = self._tokens(self._flight)
        began = time.thread_time_ns()
        frames = self._core.plan_frames()
        finished = [] if self._flight is None else self._core.settle_frames(self._flight[0].step, tokens)[1]
        self.us = since(began)
        self.plan_bytes = sum(map(len, frames or ()))
        self._flight = None if frames is None else (_plan.decode(frames[0]), frames[1])
        return finished

    def read_counters(self) -> None:
        self._core.stats()

    @staticmethod
    def _tokens(flight: tuple[StepPlan, bytes] | None) -> np.ndarray:
        if flight is None:
            return np.zeros(0, dtype=np.int32)
        rows = np.frombuffer(flight[1], dtype=np.int32).reshape(-1, 4)
        samples = len(slots_of(flight[0].decodes)) + int(np.count_nonzero(rows[:, 3] & SAMPLE))
        return np.full(samples, 7, dtype=np.int32)


_plan = msgspec.msgpack.Decoder(StepPlan)
