"""Drawing the next tokens: argmax when every row is greedy, the sampling kernel otherwise."""

import torch
from torch import Tensor
from ts_kernels import sampling
from ts_protocol.messages import UNUSABLE

from ts_runtime.devices import Device
from ts_runtime.staging import Draw


def draw(logits: Tensor, rows: Draw, device: Device) -> Tensor:
    """One token of each row of ``logits`` [S, V], int32 [S]. A draw depends on the row's seed and position alone.

    A NaN logit is never chosen. A row whose highest logit is not a finite number gives ``UNUSABLE``.
    """
    if rows.greedy:
        return device.argmax(logits)
    tokens = sampling.sample(logits, rows.temperature, rows.top_k, rows.top_p, rows.seeds, rows.positions)
    chosen = logits.gather(1, tokens.clamp(min=0).long()[:, None])[:, 0]  # the kernel says -1 where there is nothing
    return torch.where(chosen.isfinite(), tokens, UNUSABLE)
