"""What is measured, once for any scheduler: each case drives a ``Driver`` and returns figures.

Times are thread CPU time of planning a step, exporting it, and handing its result in, less what reading the clock
costs. Making results is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

VOCAB = 1 << 17
PAGE = 64


def _clock_us() -> float:
    readings = [time.thread_time_ns() for _ in range(1001)]
    return statistics.median(after - before for before, after in pairwise(readings)) / 1000


CLOCK_US = _clock_us()
"""What two successive readings of the thread's clock differ by: a system call."""


def since(began: int) -> float:
    """Thread CPU microseconds since a reading of ``time.thread_time_ns``."""
    return max(0.0, (time.thread_time_ns() - began) / 1000 - CLOCK_US)


@dataclass(frozen=True)
class Limits:
    """What a scheduler is made with: ``longest`` context in tokens, ``chunk`` tokens a step."""

    pages: int
    batch: int
    longest: int
    chunk: int
    queued: int = 1024


class Driver(Protocol):
    """A scheduler under measurement, one step planned ahead of the result."""

    us: float
    """Thread CPU microseconds of the latest ``step``."""
    plan_bytes: int | None
    """Of the latest step's plan as it travels, ``None`` where plans do not travel as bytes."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not computed, so far."""

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that were computed, recomputed ones included."""

    def submit(self, request: int, prompt: np.ndarray, max_tokens: int) -> float:
        """Take a request whose every answer token is 7; microseconds it took."""

    def step(self) -> list[int]:
        """Plan a step, hand in the result of the one before; requests that ended. Nothing to do is no error."""

    def read_counters(self) -> None:
        """Read all counters and gauges once."""


Make = Callable[[Limits], Driver]
Figures = dict[str, Any]


def _prompt(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length, dtype=np.int32)


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def decode(make: Make, *, batch: int, context: int, steps: int = 200) -> Figures:
    """A step of ``batch`` decodes at ``context`` tokens each."""
    length = context + steps + 96
    pages = 2 * batch * (length // PAGE + 4)  # room for all to enter at once, whatever is kept back
    limits = Limits(pages, batch, length, batch * context + batch)
    driver = make(limits)
    for request in range(batch):
        driver.submit(request, _prompt(context, request), steps + 64)
    for _ in range(4):
        driver.step()
    times = []
    sizes = []
    for _ in range(steps):
        driver.step()
        times.append(driver.us)
        if driver.plan_bytes is not None:
            sizes.append(driver.plan_bytes)
    figures = {"p50_us": statistics.median(times), "p99_us": _p99(times)}
    return {**figures, "plan_bytes": statistics.median(sizes)} if sizes else figures


def prompt(make: Make, *, context: int = 50_000, schedulers: int = 15) -> Figures:
    """Taking and planning one long prompt, first cold, then as a full hit: medians over fresh schedulers."""
    times: dict[str, list[float]] = {}
    for seed in range(schedulers):
        driver = make(Limits(4 * (context // PAGE + 4), 2, context + 64, context + 64))
        tokens = _prompt(context, seed)
        for request, name in enumerate(("cold", "hit")):
            submit = driver.submit(request, tokens, 1)
            driver.step()
            times.setdefault(f"{name}_submit_us", []).append(submit)
            times.setdefault(f"{name}_plan_us", []).append(driver.us)
            times.setdefault(f"{name}_us", []).append(submit + driver.us)
            while request not in driver.step():
                pass
    first = {"first_cold_us": times["cold_us"][0]}
    return {name: statistics.median(values) for name, values in times.items()} | first


def counters(make: Make, *, calls: int = 2000) -> Figures:
    """Reading all counters and gauges: empty, and with 256 requests on 50K pages."""
    empty, full = make(Limits(64, 1, 128, 128)), make(Limits(50_000, 256, 13_000, 256 * 13_000))
    for request in range(256):
        full.submit(request, _prompt(12_400, request), 500)
    for _ in range(4):
        full.step()
    figures = {}
    for name, driver in (("empty_us", empty), ("full_us", full)):
        times = []
        for _ in range(21):
            began = time.thread_time_ns()
            for _ in range(calls // 20):
                driver.read_counters()
            times.append(since(began) / (calls // 20))
        figures[name] = statistics.median(times)
    return figures


def waiting(make: Make, *, batch: int = 64, context: int = 2048, queue: int = 64, length: int = 50_000) -> Figures:
    """What ``queue`` waiting prompts of ``length`` tokens add to each step of a full batch of decodes."""
    steps = 60
    own = context + 4 * steps
    driver = make(Limits(batch * (own // PAGE + 2) + length // PAGE, batch, length + 64, batch * context + batch))
    for request in range(batch):
        driver.submit(request, _prompt(context, request), 4 * steps)
    for _ in range(4):
        driver.step()

    def median() -> float:
        times = []
        for _ in range(steps):
            driver.step()
            times.append(driver.us)
        return statistics.median(times)

    before = median()
    for number in range(queue):
        driver.submit(batch + number, _prompt(length, 1000 + number), 1)
    driver.step()
    after = median()
    return {"without_us": before, "with_us": after, "added_us": after - before}


def trace(make: Make, *, pages: int, sessions: int = 64, turns: int = 20, first: int = 36_000, added: int = 650,
          answer: int = 300, seconds: float = 240.0) -> Figures:  # fmt: skip
    """``sessions`` conversations of ``turns`` turns, the next turn sent as soon as the last is answered.

    Stops when ``seconds`` of CPU time are spent; ``turns_done`` says how far it came.
    """
    longest = first + turns * (added + answer) + 1
    driver = make(Limits(pages, sessions, longest, 8192))
    contexts = [_prompt(first, 50 + number) for number in range(sessions)]
    turn = [0] * sessions
    owner: dict[int, int] = {}
    submitted_us = asked = done = uncached = 0.0

    def ask(session: int) -> None:
        nonlocal submitted_us, asked, uncached
        request = session * turns + turn[session]
        owner[request] = session
        asked += len(contexts[session])
        uncached += first if turn[session] == 0 else added + 1  # the last answer token was never computed
        submitted_us += driver.submit(request, contexts[session], answer)

    for session in range(sessions):
        ask(session)
    times: list[float] = []
    stepped_us = 0.0
    while owner and (stepped_us + submitted_us) / 1e6 < seconds:
        ended = driver.step()
        times.append(driver.us)
        stepped_us += driver.us
        for request in ended:
            session = owner.pop(request)
            done += 1
            turn[session] += 1
            if turn[session] < turns:
                more = _prompt(added, 10_000 + request)
                contexts[session] = np.concatenate((contexts[session], np.full(answer, 7, np.int32), more))
                ask(session)
    return {
        "cpu_s": (stepped_us + submitted_us) / 1e6,
        "steps": len(times),
        "p50_us": statistics.median(times),
        "p99_us": _p99(times),
        "turns_done": int(done),
        "turns": sessions * turns,
        "hit_rate": driver.cached_tokens / max(driver.cached_tokens + driver.prefilled_tokens, 1),
        "prefill_over_ideal": driver.prefilled_tokens / uncached,
    }


CASES: dict[str, Callable[[Make], Figures]] = {
    **{
        f"decode step, batch {batch}, {context // 1000}K context": partial(decode, batch=batch, context=context)
        for context in (2048, 51_200)
        for batch in (1, 64, 256)
    },
    "50K prompt": prompt,
    "64 waiting 50K prompts": waiting,
    "trace, 50K pages": partial(trace, pages=50_000),
    "trace, 24K pages": partial(trace, pages=24_000),
    "all counters and gauges": counters,
}
"""By name, in the order they are reported."""
