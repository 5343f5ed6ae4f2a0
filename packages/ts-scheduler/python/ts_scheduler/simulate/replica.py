"""One scheduler, the users that it serves, and a clock: steps take what the device says, planned one ahead."""

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ts_scheduler._core import Config, Plan, Scheduler
from ts_scheduler.simulate.device import Device
from ts_scheduler.simulate.workload import VOCAB, Ids, Turn, User, Workload, system_prompts

SAMPLE = 1
"""The flag of a row whose last position yields a token, as in ``ts_protocol.messages.StepPlan``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the replica's scheduler is set, and for how long it is watched."""

    users: int
    seconds: float
    """Virtual time, the warmup included."""
    warmup_s: float = 30.0
    """What happens before is simulated and not counted: all users' first prompts come at once."""
    page_size: int = 64
    chunk_tokens: int = 8192
    max_num_seqs: int = 256
    floor_tps: float = 70.0
    """A user's tokens a second below which time is counted as bad."""
    min_tps: float = 0.0
    """The scheduler's own floor; 0: none."""
    growth_room: float = 0.33
    """As the scheduler's ``Config``."""
    seed: int = 0


@dataclass(kw_only=True)
class Outcome:
    """What happened after the warmup, on one replica or summed over many; one entry a finished request in the lists."""

    users: int = 0
    gpus: int = 0
    seconds: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    decode_seconds: float = 0.0
    """Time that users spent receiving tokens, summed over users."""
    slow_seconds: float = 0.0
    """The part of it while the answer so far, since its first token, was slower than the floor."""
    preemptions: int = 0
    queue_s: list[float] = field(default_factory=list)
    """From a request's arrival to its first planned step."""
    first_token_s: list[float] = field(default_factory=list)
    user_tps: list[float] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Sum another replica's outcome into this one."""
        self.seconds = max(self.seconds, other.seconds)
        for name in ("users", "gpus", "steps", "step_seconds", "prompt_tokens", "cached_tokens", "output_tokens",
                     "decode_seconds", "slow_seconds", "preemptions"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.queue_s += other.queue_s
        self.first_token_s += other.first_token_s
        self.user_tps += other.user_tps


@dataclass(kw_only=True)
class _Running:
    """A request between its arrival and its last token."""

    user: User
    turn: Turn
    arrived: float
    planned: float = -1.0
    first: float = -1.0
    latest: float = -1.0
    answer: list[int] = field(default_factory=list)


class Replica:
    """A scheduler and its users in virtual time."""

    def __init__(self, device: Device, workload: Workload, options: Options, *, first_user: int = 0) -> None:
        self._device = device
        self._options = options
        self._scheduler = Scheduler(_config(device, workload, options))
        systems = system_prompts(workload, seed=options.seed)
        users = range(first_user, first_user + options.users)
        self._rng = np.random.default_rng((options.seed, first_user, 1))
        self._drawn: Ids = np.zeros(0, np.int32)
        self._now = 0.0
        self._device_free = 0.0
        self._flight: deque[tuple[Plan, float, float]] = deque()
        self._arrivals: list[tuple[float, int, User, Turn]] = []
        self._running: dict[int, _Running] = {}
        self._requests = 0
        self._outcome = Outcome(users=options.users, gpus=device.gpus)
        for user in (User(workload, systems, seed=options.seed, user=number) for number in users):
            self._expect(user, 0.0)

    def run(self) -> Outcome:
        """Simulate until the options' seconds have passed."""
        options, outcome = self._options, self._outcome
        preempted_before = 0
        while self._now < options.seconds:
            self._submit_arrived()
            self._plan_ahead()
            if not self._flight and not self._arrivals:
                raise RuntimeError("no request runs and none will come: the scheduler never plans what it holds")
            end = self._flight[0][2] if self._flight else float("inf")
            arrival = self._arrivals[0][0] if self._arrivals else float("inf")
            if arrival < end:
                self._now = max(self._now, arrival)
                continue
            self._now = end
            self._settle_oldest()
            if self._now < options.warmup_s:
                preempted_before = self._scheduler.stats().preemptions
        outcome.preemptions = self._scheduler.stats().preemptions - preempted_before
        outcome.seconds = self._now - options.warmup_s
        return outcome

    def _expect(self, user: User, now: float) -> None:
        turn = user.next()
        heapq.heappush(self._arrivals, (now + turn.wait_s, user.user, user, turn))

    def _submit_arrived(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self._now:
            arrived, _, user, turn = heapq.heappop(self._arrivals)
            self._requests += 1
            rejection = self._scheduler.submit(
                self._requests, turn.prompt, turn.answer_tokens, user=user.user + 1, session=True
            )
            if rejection is not None:
                raise RuntimeError(f"the scheduler refused a turn of {len(turn.prompt)} tokens: {rejection.message}")
            self._running[self._requests] = _Running(user=user, turn=turn, arrived=arrived)

    def _plan_ahead(self) -> None:
        while (plan := self._scheduler.plan()) is not None:
            rows = plan.rows
            start = max(self._now, self._device_free)
            self._device_free = start + self._device.step_seconds(rows[:, 1], rows[:, 2])
            self._flight.append((plan, start, self._device_free))
            for _, request in plan.admits:
                running = self._running[request]
                if running.planned < 0:
                    running.planned = start

    def _settle_oldest(self) -> None:
        plan, start, end = self._flight.popleft()
        counted = self._now >= self._options.warmup_s
        if counted:
            self._outcome.steps += 1
            self._outcome.step_seconds += end - start
        samples = int(np.count_nonzero(plan.rows[:, 3] & SAMPLE))
        outputs = self._scheduler.settle(plan.step, self._draw(samples), round((end - start) * 1e9))
        for request, token, cached, finish in outputs:
            running = self._running[request]
            running.answer.append(token)
            if running.first < 0:
                running.first = self._now
                if counted:
                    self._outcome.prompt_tokens += len(running.turn.prompt)
                    self._outcome.cached_tokens += cached
            elif counted:
                gap = self._now - running.latest
                self._outcome.decode_seconds += gap
                if len(running.answer) - 1 < self._options.floor_tps * (self._now - running.first):
                    self._outcome.slow_seconds += gap
            if counted:
                self._outcome.output_tokens += 1
            running.latest = self._now
            if finish is not None:
                self._finish(request, counted=counted)

    def _draw(self, samples: int) -> Ids:
        """What the model samples; drawn many at a time."""
        if samples > len(self._drawn):
            self._drawn = self._rng.integers(0, VOCAB, 1 << 16, dtype=np.int32)
        tokens, self._drawn = self._drawn[:samples], self._drawn[samples:]
        return tokens

    def _finish(self, request: int, *, counted: bool) -> None:
        running = self._running.pop(request)
        if counted:
            self._outcome.queue_s.append(running.planned - running.arrived)
            self._outcome.first_token_s.append(running.first - running.arrived)
            if len(running.answer) > 1:
                self._outcome.user_tps.append((len(running.answer) - 1) / (running.latest - running.first))
        running.user.hear(np.asarray(running.answer, dtype=np.int32))
        self._expect(running.user, self._now)


def _config(device: Device, workload: Workload, options: Options) -> Config:
    longest = workload.longest + int(workload.answer.most if workload.answer.most < 1e9 else workload.answer.median) + 1
    return Config(
        page_size=options.page_size,
        num_pages=device.kv_tokens // options.page_size,
        max_num_seqs=options.max_num_seqs,
        max_model_len=longest,
        vocab_size=VOCAB,
        chunk_tokens=options.chunk_tokens,
        max_queued=options.users,
        min_tps=options.min_tps,
        growth_room=options.growth_room,
    )
