"""Activations to FP8 in plain torch. Legend: T tokens, D width."""

import torch
from torch import Tensor

from ...contract import E4M3_MAX
from .fp8 import BLOCK, to_e4m3

LEAST = 1e-12  # the scale of a row of zeros


def fp8_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, 1]."""
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / E4M3_MAX).clamp_min(LEAST)
    return to_e4m3(wide / scale), scale


def fp8_per_group(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values e4m3 [T, D] and scale fp32 [T, ceil(D / 128)]."""
    tokens, width = x.shape
    padded = torch.nn.functional.pad(x.float(), (0, -width % BLOCK))
    groups = padded.reshape(tokens * (padded.shape[1] // BLOCK), BLOCK)
    values, scale = fp8_per_token(groups)
    return values.reshape(padded.shape)[:, :width].contiguous(), scale.reshape(tokens, padded.shape[1] // BLOCK)
