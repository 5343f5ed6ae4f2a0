"""From a plan to sampled tokens: stage the inputs, run the model, sample, keep the tokens on the device."""

import numpy as np
from torch import Tensor
from ts_modeling import LayerCache, LoadedModel
from ts_protocol.messages import StepPlan
from ts_protocol.wire import IntArray

from ts_runtime.devices import Device, Fetch, Ready
from ts_runtime.kv_pool import PoolSize
from ts_runtime.rows import Limits
from ts_runtime.sampler import Sampler
from ts_runtime.slots import Slots
from ts_runtime.staging import Prepared, Stager
from ts_runtime.states import StateCopier


class Executor:
    """Runs plans one after another on one device. Not thread-safe."""

    def __init__(
        self,
        model: LoadedModel,
        cache: list[LayerCache],
        pool: PoolSize,
        *,
        device: Device,
        max_num_seqs: int,
        chunk_tokens: int,
    ) -> None:
        self._model = model
        self._cache = cache
        self._device = device
        limits = Limits(
            page_size=pool.page_size,
            max_tokens=chunk_tokens,
            max_model_len=pool.max_model_len,
            vocab_size=model.config.vocab_size,
        )
        max_pages = -(-pool.max_model_len // pool.page_size)
        self.slots = Slots(
            max_num_seqs, max_pages=max_pages, num_pages=pool.num_pages, num_states=pool.num_states, device=device
        )
        self._sampler = Sampler(model.sampler, device)
        self._stager = Stager(self.slots, limits, candidates=self._sampler.candidates, device=device)
        self._states = StateCopier(model.kv_spec, cache, device) if pool.num_states else None

    def launch(self, plan: StepPlan, frames: list[IntArray]) -> Fetch:
        """Start a step; its result is the sampled token of each sampling row, or ``UNUSABLE``, in row order.

        Raises:
            PlanError: the plan contradicts the worker's state or limits.
        """
        step = self.prepare(plan, frames)
        if step is None:
            return Ready(np.zeros(0, np.int32))
        return self.sample(step, self.forward(step))

    def prepare(self, plan: StepPlan, frames: list[IntArray]) -> Prepared | None:
        """Take the plan's changes and bring its inputs to the device; ``None`` when it has no rows."""
        return self._stager.stage(plan, frames)

    def forward(self, step: Prepared) -> Tensor:
        """Logits of the sampling rows, fp32 [S, V]: this rank's columns of them where the vocabulary is cut."""
        if self._states is None:
            return self._model.forward(step.batch, self._cache)
        self._states.copy(step.loads)
        for batch, saves in step.before:
            self._model.forward(batch, self._cache)
            self._states.copy(saves)
        logits = self._model.forward(step.batch, self._cache)
        self._states.copy(step.saves)
        return logits

    def sample(self, step: Prepared, logits: Tensor) -> Fetch:
        """Draw the tokens, keep them on the device for the next step, and start bringing them to the host."""
        if not len(step.draw.slots):
            return Ready(np.zeros(0, np.int32))
        tokens = self._sampler.draw(logits, step.draw)
        fed = tokens.clamp(min=0)  # the row of an unusable token may run once more, for nothing
        self.slots.last_token_dev.index_copy_(0, step.draw.slots, fed)
        return self._device.fetch(tokens)
