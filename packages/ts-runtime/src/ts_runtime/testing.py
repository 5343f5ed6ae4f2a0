"""A stand-in for the scheduler, for tests and benchmarks: makes valid plans over shuffled pages, without any policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ts_protocol.messages import ROW_SAMPLE, SamplingParams, SlotAdmit, StepPlan
from ts_protocol.wire import IntArray, bitmap_of, slots_of

Plan = tuple[StepPlan, list[IntArray]]
GREEDY = SamplingParams()


@dataclass
class Request:
    """A request in a slot: what it was given and has sampled, and how much of it is planned."""

    slot: int
    tokens: list[int]
    planned: int = 0
    sampled: bool = False
    pages: list[int] = field(default_factory=list)
    state: int = -1


class PlanMaker:
    """Hands out pages of a pool in random order and turns calls into plans.

    Collect rows with ``admit``, ``prefill`` and ``decode``, then take the ``plan``; after its step, ``settle``.
    """

    def __init__(self, *, num_pages: int, page_size: int, num_states: int = 0, seed: int = 0) -> None:
        self.page_size = page_size
        self.has_states = num_states > 0
        random = np.random.default_rng(seed)
        self.free = [int(page) for page in random.permutation(num_pages)]
        self.free_states = [int(page) for page in random.permutation(num_states)]
        self.live: dict[int, Request] = {}
        self._step = 0
        self._clear()

    def _clear(self) -> None:
        self._decodes: list[int] = []
        self._prefills: list[list[int]] = []
        self._tokens: list[int] = []
        self._pages: list[tuple[int, int, int, int]] = []
        self._states: list[tuple[int, int, int, int, int]] = []
        self._admits: list[SlotAdmit] = []
        self._releases: list[int] = []

    def admit(
        self, slot: int, prompt: Sequence[int], sampling: SamplingParams = GREEDY, *, cached: int = 0, state: int = -1
    ) -> None:
        """Put a request into a slot; again after ``release``, with what it has sampled so far, to recompute it.

        Its first ``cached`` tokens count as computed already, and the page ``state`` holds the state behind them.
        """
        self.live[slot] = Request(slot, list(prompt))
        self._admits.append(SlotAdmit(slot, sampling))
        if self.has_states:
            self.live[slot].state = self.free_states.pop()
            self._pages.append((slot, 1, 0, self.live[slot].state))
        if state >= 0:
            self._states.append((slot, 1, state, cached, 0))
        self._cover(self.live[slot], cached)

    def release(self, slot: int) -> None:
        """Give the slot and its pages back."""
        request = self.live.pop(slot)
        self.free.extend(request.pages)
        self.free_states.extend([request.state] if self.has_states else [])
        self._releases.append(slot)

    def save(self, slot: int, position: int) -> int:
        """Have the plan keep the slot's state after ``position`` tokens, which its row reaches; gives the page."""
        page = self.free_states.pop()
        self._states.append((slot, 1, page, position, 1))
        return page

    def prefill(self, slot: int, count: int) -> None:
        """A chunk of ``count`` known tokens; the one that ends the known tokens samples."""
        sequence = self.live[slot]
        start, end = sequence.planned, sequence.planned + count
        flags = ROW_SAMPLE if end == len(sequence.tokens) else 0
        self._prefills.append([slot, start, count, flags])
        self._tokens.extend(sequence.tokens[start:end])
        self._cover(sequence, end)

    def decode(self, slot: int) -> None:
        """The token that the previous step samples, fed on the device."""
        sequence = self.live[slot]
        self._decodes.append(slot)
        self._cover(sequence, sequence.planned + 1)

    def _cover(self, sequence: Request, end: int) -> None:
        sequence.planned = end
        while len(sequence.pages) * self.page_size < end:
            sequence.pages.append(self.free.pop())
            self._pages.append((sequence.slot, 0, len(sequence.pages) - 1, sequence.pages[-1]))

    def plan(self) -> Plan:
        """The collected rows as a plan, decodes as its bitmap."""
        self._step += 1
        rows = np.array(self._prefills, np.int32).reshape(-1, 4)
        tokens, pages = np.array(self._tokens, np.int32), np.array(self._pages, np.int32)
        states = np.array(self._states, np.int32)
        plan = StepPlan(self._step, self._admits, self._releases, bitmap_of(self._decodes))
        self._clear()
        return plan, [rows.reshape(-1), tokens, pages.reshape(-1), states.reshape(-1)]

    def settle(self, plan: Plan, sampled: IntArray) -> None:
        """Append each sampled token to its sequence."""
        rows = plan[1][0].reshape(-1, 4)
        slots = slots_of(plan[0].decodes).tolist() + rows[(rows[:, 3] & ROW_SAMPLE) != 0, 0].tolist()
        for slot, token in zip(slots, sampled.tolist(), strict=True):
            if slot in self.live:
                self.live[slot].tokens.append(token)
                self.live[slot].sampled = True
