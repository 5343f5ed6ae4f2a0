"""What users of a coding agent ask: sessions of many turns on one growing prefix, with waits for tools between them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
VOCAB = 160_000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A log-normal amount: its median, the standard deviation of its logarithm, and the most it can be."""

    median: float
    sigma: float = 0.0
    most: float = float("inf")

    def draw(self, rng: np.random.Generator) -> float:
        """One amount, at least 0."""
        return min(self.most, self.median * float(np.exp(self.sigma * rng.standard_normal())))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How a session goes: sizes in tokens, waits in seconds."""

    name: str
    system: int
    """Length of the system prompt, which sessions share."""
    systems: int
    """How many system prompts there are."""
    first: Spread
    """What a session's first turn adds to the system prompt."""
    added: Spread
    """What each later turn adds: a tool's result or a person's words."""
    answer: Spread
    turns: tuple[int, int]
    """Least and most turns of a session."""
    tool_wait: Spread
    person_wait: Spread
    person_share: float
    """Share of the waits between turns that are for a person."""
    longest: int
    """A session ends before its context passes this length."""
    source: str = field(default="")


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="swe",
            system=0,
            systems=1,
            first=Spread(median=50_000),
            added=Spread(median=800),
            answer=Spread(median=500),
            turns=(10, 15),
            tool_wait=Spread(median=0.0),
            person_wait=Spread(median=0.0),
            person_share=0.0,
            longest=80_000,
            source="multi-turn SWE-smith as published: 50,000 tokens, then 800 a turn, 500 answered",
        ),
        Workload(
            name="coding",
            system=12_000,
            systems=4,
            first=Spread(median=8_000, sigma=0.9, most=60_000),
            added=Spread(median=900, sigma=1.0, most=20_000),
            answer=Spread(median=250, sigma=0.8, most=4_000),
            turns=(8, 60),
            tool_wait=Spread(median=1.5, sigma=1.0, most=120),
            person_wait=Spread(median=45, sigma=1.0, most=900),
            person_share=0.12,
            longest=120_000,
            source="an assumption: a shared system prompt, short answers, and tools that take a second or two",
        ),
    )
}
"""Workloads by name."""


@dataclass(kw_only=True)
class Turn:
    """One request of a session."""

    session: int
    prompt: Ids
    answer_tokens: int
    wait_s: float
    """Between the answer before and this turn."""


class User:
    """One user: session after session. ``hear`` what was answered before asking for the ``next`` turn."""

    def __init__(self, workload: Workload, systems: list[Ids], *, seed: int, user: int) -> None:
        self.workload = workload
        self.user = user
        self._rng = np.random.default_rng((seed, user))
        self._systems = systems
        self._sessions = 0
        self._context = np.zeros(0, np.int32)
        self._turns = self._turns_of()

    def hear(self, answer: Ids) -> None:
        """Append the model's answer to the context."""
        self._context = np.concatenate((self._context, answer))

    def next(self) -> Turn:
        """The next turn, its prompt the whole context."""
        return next(self._turns)

    def _ids(self, amount: float) -> Ids:
        return self._rng.integers(0, VOCAB, max(1, round(amount)), dtype=np.int32)

    def _wait(self) -> float:
        person = self._rng.random() < self.workload.person_share
        return (self.workload.person_wait if person else self.workload.tool_wait).draw(self._rng)

    def _sizes(self, *, under_way: bool) -> list[tuple[int, int]]:
        """What each turn of a session adds, and its answer; who is met ``under_way`` is likelier in a long session."""
        w, rng = self.workload, self._rng
        least, most = w.turns
        turns = round(float(rng.uniform(least**2, most**2)) ** 0.5) if under_way else int(rng.integers(least, most + 1))
        sizes: list[tuple[int, int]] = []
        length = w.system
        for turn in range(turns):
            added = max(1, round((w.added if turn else w.first).draw(rng)))
            answer = max(1, round(w.answer.draw(rng)))
            length += added + answer
            if turn and length > w.longest:
                break
            sizes.append((added, answer))
        return sizes

    def _turns_of(self) -> Iterator[Turn]:
        """All turns for ever: the user is met at any turn of a session, within one of a person's waits."""
        w, rng = self.workload, self._rng
        wait = rng.random() * max(w.person_wait.median, 1.0)
        sizes = self._sizes(under_way=True)
        met = int(rng.integers(len(sizes)))
        while True:
            session = self.user * 100_000 + self._sessions
            self._sessions += 1
            self._context = self._systems[session % w.systems]
            for turn, (added, answer) in enumerate(sizes):
                self._context = np.concatenate((self._context, self._ids(added)))
                if turn < met:
                    self.hear(self._ids(answer))
                    continue
                yield Turn(session=session, prompt=self._context, answer_tokens=answer, wait_s=wait)
                wait = self._wait()
            sizes, met = self._sizes(under_way=False), 0


def system_prompts(workload: Workload, *, seed: int) -> list[Ids]:
    """The system prompts that all users share."""
    rng = np.random.default_rng((seed, 1 << 40))
    return [rng.integers(0, VOCAB, workload.system, dtype=np.int32) for _ in range(workload.systems)]
