"""The worker: receives plans, runs them, sends tokens.

The scheduler keeps two plans under way, so the next one usually waits in the socket while a step runs.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ts_protocol.channels import Channel
from ts_protocol.messages import SchedulerToWorker, StepPlan, StepResult
from ts_protocol.wire import IntArray

from ts_runtime.devices import Fetch
from ts_runtime.errors import PlanError
from ts_runtime.executor import Executor

HEARTBEAT_SECONDS: Final = 0.5

Plan = tuple[StepPlan, list[IntArray]]


class Worker:
    """Serves one scheduler. ``heartbeat(steps)`` is called twice a second, between steps and while idle.

    Of several ranks one ``answers``: all have the same tokens.
    """

    def __init__(
        self,
        executor: Executor,
        channel: Channel[SchedulerToWorker],
        *,
        in_flight: int,
        answers: bool,
        heartbeat: Callable[[int], None],
    ) -> None:
        self._executor = executor
        self._channel = channel
        self._in_flight = in_flight
        self._answers = answers
        self._heartbeat = heartbeat
        self._launched: deque[tuple[int, int, Fetch]] = deque()
        """Step, when it was launched in nanoseconds, and its tokens."""
        self._settled = 0
        self._steps = 0
        self._next_beat = 0.0

    def serve(self) -> None:
        """Run for ever; a signal or an error ends it.

        Raises:
            PlanError: the scheduler sent what cannot be run.
            MalformedError: a message was lost, and with it the state.
        """
        while True:
            plan = self._next_plan()
            if plan is not None:
                self._launch(*plan)
            if self._launched and (plan is None or len(self._launched) >= self._in_flight):
                self._settle_oldest()
            self._beat()

    def _next_plan(self) -> Plan | None:
        """The next plan if one is there; without a step under way, waits for one or for the next heartbeat."""
        if not self._launched and not self._channel.poll(max(0.0, self._next_beat - time.monotonic())):
            return None
        received = self._channel.try_recv()
        if received is None:
            return None
        message, frames = received
        if not isinstance(message, StepPlan):
            raise PlanError(f"the scheduler sent {type(message).__name__} after the handshake")
        return message, frames

    def _launch(self, plan: StepPlan, frames: list[IntArray]) -> None:
        launched = time.monotonic_ns()
        self._launched.append((plan.step, launched, self._executor.launch(plan, frames)))

    def _settle_oldest(self) -> None:
        step, launched, fetch = self._launched.popleft()
        tokens = fetch.wait()
        now = time.monotonic_ns()
        duration = now - max(launched, self._settled)  # the device takes one step after another
        self._settled = now
        if self._answers:
            self._channel.send(StepResult(step, duration), tokens)
        self._steps += 1

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            self._heartbeat(self._steps)
