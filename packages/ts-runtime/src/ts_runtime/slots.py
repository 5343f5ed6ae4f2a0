"""The worker's mirror of the request slots: pages, length, sampling parameters and the last token of each.

Host arrays are the truth; their mirrors on the device are gathered by slot in each step, so a plan carries only
changes.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from ts_protocol.messages import SamplingParams, SlotAdmit, StepPlan
from ts_protocol.wire import IntArray

from ts_runtime.devices import Device
from ts_runtime.errors import PlanError

_MASK64 = (1 << 64) - 1
LEAST_TEMPERATURE = 1e-5
"""Below it a draw is the argmax, and dividing by it would overflow."""


class Slots:
    """State of ``count`` slots whose sequences span at most ``max_pages`` pages of a pool of ``num_pages``.

    ``num_states`` is the number of pages for running states, 0 for a model without.
    """

    def __init__(self, count: int, *, max_pages: int, num_pages: int, num_states: int = 0, device: Device) -> None:
        self.count = count
        self.num_states = num_states
        self.max_pages = max_pages
        self._num_pages = num_pages
        self._device = device
        self.pages = np.zeros((count, max_pages), np.int32)
        self.page_count = np.zeros(count, np.int64)
        self.length = np.full(count, -1, np.int64)
        """Tokens that the planned steps leave in the cache; -1 before a slot's first row."""
        self.states = np.full(count, -1, np.int64)
        """The page of each slot's running state; -1 before it has one."""
        self.live = np.zeros(count, np.bool_)
        self.fed = np.zeros(count, np.bool_)
        """The slot's last sampled token is on the device."""
        self.greedy = np.ones(count, np.bool_)
        self.temperature = np.zeros(count, np.float32)
        self.top_p = np.ones(count, np.float32)
        self.top_k = np.zeros(count, np.int32)
        self.seed = np.zeros(count, np.int64)
        self.pages_dev = device.mirror(self.pages)
        self.temperature_dev = device.mirror(self.temperature)
        self.top_p_dev = device.mirror(self.top_p)
        self.top_k_dev = device.mirror(self.top_k)
        self.seed_dev = device.mirror(self.seed)
        self.last_token_dev = torch.zeros(count, dtype=torch.int32, device=device.torch_device)

    def apply(self, plan: StepPlan, pages: IntArray) -> None:
        """Take the changes that a plan brings: releases, admissions, then ``pages`` [n, 4]: slot, group, block, page.

        Raises:
            PlanError: a slot, a page or a block is out of range, the slot serves nobody, or the group is not there.
        """
        if plan.releases:
            self._release(plan.releases)
        if plan.admits:
            self._admit(plan.admits)
        if len(pages):
            self._append(pages)

    def _release(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._check_slot("releases", slot)
            self.live[slot] = False

    def _admit(self, admits: Sequence[SlotAdmit]) -> None:
        for admit in admits:
            slot = admit.slot
            self._check_slot("admits", slot)
            self._set_sampling(slot, admit.sampling)
            self.live[slot] = True
            self.fed[slot] = False
            self.page_count[slot] = 0
            self.length[slot] = -1
            self.states[slot] = -1

    def _set_sampling(self, slot: int, params: SamplingParams) -> None:
        if not (0 <= params.temperature < float("inf") and 0 < params.top_p <= 1 and 0 <= params.top_k < 2**31):
            raise PlanError(f"slot {slot} samples with {params}: temperature >= 0, 0 < top_p <= 1 and top_k >= 0")
        seed = params.seed & _MASK64
        greedy = params.temperature < LEAST_TEMPERATURE
        self.greedy[slot] = greedy
        self.temperature[slot] = 0.0 if greedy else params.temperature
        self.top_p[slot] = params.top_p
        self.top_k[slot] = params.top_k
        self.seed[slot] = seed - (1 << 64) if seed >> 63 else seed
        here = slice(slot, slot + 1)
        self._device.push(self.temperature_dev, self.temperature, here)
        self._device.push(self.top_p_dev, self.top_p, here)
        self._device.push(self.top_k_dev, self.top_k, here)
        self._device.push(self.seed_dev, self.seed, here)

    def _append(self, frame: IntArray) -> None:
        """Append each page to its slot's block table, in order; pages of one slot usually stand together."""
        if frame[:, 1].any():
            groups = frame[:, 1]
            self._take_states(frame[groups != 0])
            frame = frame[groups == 0]
        begin = 0
        for slot, group in groupby(frame[:, 0].tolist()):
            end = begin + sum(1 for _ in group)
            self._append_run(slot, frame[begin:end, 2], frame[begin:end, 3])
            begin = end

    def _take_states(self, frame: IntArray) -> None:
        """Each slot's one page for its running state, group 1."""
        for slot, group, block, page in frame.tolist():
            if group != 1 or not self.num_states:
                kinds = "full attention and running states" if self.num_states else "full attention alone"
                raise PlanError(f"the plan gives pages of group {group}; this worker has {kinds}")
            self._check_live(slot)
            if block or self.states[slot] >= 0 or not 0 <= page < self.num_states:
                raise PlanError(f"the plan gives slot {slot} state {page} as block {block}; it has one, block 0")
            self.states[slot] = page

    def _append_run(self, slot: int, blocks: IntArray, pages: IntArray) -> None:
        self._check_live(slot)
        if min(listed := pages.tolist()) < 0 or max(listed) >= self._num_pages:
            raise PlanError(f"the plan gives slot {slot} pages {listed[:8]}; the cache has {self._num_pages}")
        first = int(self.page_count[slot])
        last = first + len(listed)
        if last > self.max_pages:
            raise PlanError(f"the plan gives slot {slot} more than the {self.max_pages} pages of max_model_len")
        if blocks.tolist() != list(range(first, last)):
            raise PlanError(f"the plan gives slot {slot} blocks {blocks.tolist()[:8]}; its next one is {first}")
        self.pages[slot, first:last] = pages
        self.page_count[slot] = last
        self._device.push(self.pages_dev, self.pages, (slot, slice(first, last)))

    def _check_live(self, slot: int) -> None:
        if not 0 <= slot < self.count or not self.live[slot]:
            raise PlanError(f"the plan gives pages to slot {slot}, which does not serve a request")

    def _check_slot(self, field: str, slot: int) -> None:
        if not 0 <= slot < self.count:
            raise PlanError(f"the plan's {field} name slot {slot}; there are {self.count}")
