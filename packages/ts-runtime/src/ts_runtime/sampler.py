"""Drawing the next tokens: argmax when every row is greedy, the sampling kernel otherwise.

Where the vocabulary is cut over ranks, each of them draws the same tokens of all ranks' candidates: 1,548 bytes a row
that a rank of four sends, where the logits of Kimi K2.5 are 491,520. Rows that may draw any token need these still.
"""

from typing import Final

import torch
from torch import Tensor
from ts_kernels import sampling
from ts_modeling import LoadedSampler, SampledRows
from ts_protocol.messages import UNUSABLE

from ts_runtime.devices import Device
from ts_runtime.staging import Draw

CANDIDATES: Final = 64
"""Of each rank. A ``top_k`` up to it is drawn among them."""


class Sampler:
    """Draws on one device; ``cut`` is the model's own where its logits are one rank's part of the vocabulary."""

    def __init__(self, cut: LoadedSampler | None, device: Device) -> None:
        self._cut = cut
        self._device = device

    @property
    def candidates(self) -> int:
        """Of each rank, where logits are cut; else 0."""
        return self._cut.count if self._cut else 0

    def draw(self, logits: Tensor, rows: Draw) -> Tensor:
        """One token of each row of ``logits`` [S, V], int32 [S]. A draw depends on the row's seed and position alone.

        A NaN logit is never chosen. A row whose highest logit is not a finite number gives ``UNUSABLE``.
        """
        if self._cut is None:
            return self._draw(logits, rows)
        if rows.wide is None:
            return _among_candidates(logits, rows, self._cut)
        wide = rows.rows(rows.wide)
        drawn = self._draw(self._cut.gather(_with(logits.index_select(0, rows.wide), wide)), wide)
        if len(rows.wide) == len(rows.slots):
            return drawn
        return _among_candidates(logits, rows, self._cut).index_copy_(0, rows.wide, drawn)

    def _draw(self, logits: Tensor, rows: Draw) -> Tensor:
        """Of all logits."""
        if rows.greedy:
            return self._device.argmax(logits)
        tokens = sampling.sample(logits, rows.temperature, rows.top_k, rows.top_p, rows.seeds, rows.positions)
        # The kernel says -1 where there is nothing.
        chosen = logits.gather(1, tokens.clamp(min=0).long()[:, None])[:, 0]
        return torch.where(chosen.isfinite(), tokens, UNUSABLE)


def _among_candidates(logits: Tensor, rows: Draw, cut: LoadedSampler) -> Tensor:
    """The same of rows that are not wide."""
    tokens, logprobs = cut.forward(_with(logits, rows))
    return torch.where(logprobs.isfinite(), tokens, UNUSABLE)  # one of an infinite logit, or beside one, is none


def _with(logits: Tensor, rows: Draw) -> SampledRows:
    return SampledRows(logits, rows.temperature, rows.top_k, rows.top_p, rows.seeds, rows.positions)
