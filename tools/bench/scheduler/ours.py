"""ts-scheduler as a ``Driver``."""

from __future__ import annotations

import time

import numpy as np
from ts_scheduler import Config, Plan, Scheduler

from tools.bench.scheduler.cases import PAGE, VOCAB, Limits

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
        self._flight: Plan | None = None
        self.us = 0.0

    @property
    def cached_tokens(self) -> int:
        return self._core.stats().prefix_hit_tokens

    @property
    def prefilled_tokens(self) -> int:
        return self._core.stats().prefill_tokens

    def submit(self, request: int, prompt: np.ndarray, max_tokens: int) -> float:
        began = time.thread_time_ns()
        rejection = self._core.submit(request, prompt, max_tokens)
        us = (time.thread_time_ns() - began) / 1000
        if rejection is not None:
            raise RuntimeError(rejection.message)
        return us

    def step(self) -> list[int]:
        tokens = self._tokens(self._flight)
        began = time.thread_time_ns()
        plan = self._core.plan()
        outputs = [] if self._flight is None else self._core.settle(self._flight.step, tokens)
        self.us = (time.thread_time_ns() - began) / 1000
        self._flight = plan
        return [request for request, _, _, finish in outputs if finish is not None]

    @staticmethod
    def _tokens(plan: Plan | None) -> np.ndarray:
        samples = 0 if plan is None else int(np.count_nonzero(plan.rows[:, 3] & SAMPLE))
        return np.full(samples, 7, dtype=np.int32)
