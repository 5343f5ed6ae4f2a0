"""tokenspeed-scheduler 0.1.42 (PyPI) as a ``Driver``: plan, export of what its loop needs, advance."""

from __future__ import annotations

import time

import numpy as np
import tokenspeed_scheduler as ts

from tools.bench.scheduler.cases import PAGE, Limits, since


class Reference:
    """One group of full attention, mixed prefill and decode, no host tier, one step in flight."""

    def __init__(self, limits: Limits) -> None:
        config = ts.SchedulerConfig()
        config.cache_groups = [ts.CacheGroupConfig("kv", PAGE, limits.pages, ts.AttnKind.Full)]
        config.prefix_granularity = PAGE
        config.num_device_pages = limits.pages
        config.num_host_pages = config.num_snapshot_pages = 1
        config.max_batch_size = limits.batch
        config.max_scheduled_tokens = limits.chunk
        config.enable_mixed_prefill_decode = True
        config.overlap_schedule_depth = 1
        config.disable_l2_cache = True
        self._core = ts.Scheduler(config)
        self._flight: ts.ExecutionEvent | None = None
        self._left: dict[str, int] = {}
        self._prompt: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._ending: list[str] = []
        self.us = 0.0
        self.plan_bytes: int | None = None
        self.cached_tokens = 0
        self.prefilled_tokens = 0

    def submit(self, request: int, prompt: np.ndarray, max_tokens: int) -> float:
        spec = ts.RequestSpec()
        spec.request_id = str(request)
        spec.tokens = prompt.tolist()
        spec.max_new_tokens = max_tokens
        self._left[spec.request_id] = max_tokens
        self._prompt[spec.request_id] = len(prompt)
        began = time.thread_time_ns()
        self._core.submit_requests([spec])
        return since(began)

    def step(self) -> list[int]:
        began = time.thread_time_ns()
        plan = self._core.next_execution_plan()
        for batch in plan.forward:
            self._export(batch)
        if self._flight is not None:
            self._core.advance(self._flight)
        self.us = since(began)
        ended = [int(name) for name in self._ending]
        self._ending = []
        self._flight = self._result(plan)
        return ended

    def read_counters(self) -> None:
        core = self._core  # no one call gives them: each gauge that our one call gives too, by its own getter
        core.waiting_size()
        core.prefilling_size()
        core.decoding_size()
        core.retracted_size()
        core.cache_group_total_pages("kv")
        core.cache_group_available_pages("kv")
        core.active_lcm_blocks()
        core.host_pool_cached_blocks()

    @staticmethod
    def _export(batch: ts.Forward.Batch) -> tuple[object, ...]:
        return (
            batch.request_ids,
            batch.request_pool_indices,
            batch.input_lengths,
            batch.input_ids,
            batch.extend_prefix_lens,
            batch.num_extends(),
            batch.block_tables_arrays(),
        )

    def _result(self, plan: ts.ExecutionPlan) -> ts.ExecutionEvent:
        """The result of a step, handed in after the next plan is made."""
        event = ts.ExecutionEvent()
        for batch in plan.forward:
            names, extends = batch.request_ids, batch.num_extends()
            prefixes, lengths = batch.extend_prefix_lens, batch.input_lengths
            for row, name in enumerate(names):
                partial = False
                if row < extends:
                    self._count_prefill(name, prefixes[row], lengths[row])
                    partial = prefixes[row] + lengths[row] < self._prompt[name]
                result = ts.ForwardEvent.ExtendResult()
                result.request_id = name
                result.tokens = [] if partial else [7]
                event.add_event(result)
                if partial:
                    continue
                if name not in self._left:
                    continue  # it ended with the step before; this step was under way and has to be answered
                self._left[name] -= 1
                if self._left[name] == 0:
                    finish = ts.ForwardEvent.Finish()
                    finish.request_id = name
                    event.add_event(finish)
                    del self._left[name]
                    self._ending.append(name)
        return event

    def _count_prefill(self, name: str, prefix: int, length: int) -> None:
        """``prefix`` tokens are there before the chunk: on the first chunk they came from the cache."""
        if name not in self._done:
            self.cached_tokens += prefix
        self._done[name] = prefix + length
        self.prefilled_tokens += length
