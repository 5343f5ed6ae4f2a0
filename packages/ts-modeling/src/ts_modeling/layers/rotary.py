"""Rotary position tables: plain, linear, YaRN (arXiv 2309.00071) and Llama 3 (arXiv 2407.21783) scaling.

Numbers are those of transformers' rope types of the same names, magnitudes included.
"""

import math
from functools import cached_property
from typing import Final

import msgspec
import torch
from torch import Tensor
from ts_kernels import rope as kernels

from ..errors import ConfigError

MOST_TABLE_BYTES: Final = 1 << 30
"""Of a table: 4M positions of 64 dimensions. Making one takes several times as much."""


class LinearScaling(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Positions divided by ``factor``."""

    factor: float


class Llama3Scaling(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Slow pairs divided by ``factor``, fast ones kept, a ramp between the two frequency factors."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


class Yarn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """YaRN parameters as in a checkpoint's ``rope_scaling``; ``attention_factor`` None follows from the others."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    truncate: bool = True
    """Whether the ramp begins and ends at whole pairs (GPT-OSS: not)."""

    @property
    def softmax_gain(self) -> float:
        """What DeepSeek's attention scores are multiplied by: the square of YaRN's magnitude for all dimensions."""
        return self._magnitude(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    @property
    def table_gain(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._magnitude(self.mscale) / self._magnitude(self.mscale_all_dim)
        return self._magnitude(1.0)

    def _magnitude(self, scale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * scale * math.log(self.factor) + 1.0


Scaling = LinearScaling | Llama3Scaling | Yarn


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding of a model: base, the part of each head that turns, and how long contexts are scaled."""

    theta: float
    partial: float = 1.0
    scaling: Scaling | None = None

    def width(self, head_dim: int) -> int:
        """Columns of a head that turn."""
        return int(head_dim * self.partial)


class RotaryTable:
    """Cosines and sines, fp32 [positions, dim] on ``device``: cos half, then sin half. All layers of a model have one.

    Made when it is first asked for. Raises ``ConfigError`` at once if it would exceed ``MOST_TABLE_BYTES``.
    """

    def __init__(self, dim: int, positions: int, rope: Rope, device: torch.device) -> None:
        self.dim, self.positions, self.rope, self.device = dim, positions, rope, device
        if positions * dim * 4 > MOST_TABLE_BYTES:
            raise ConfigError(
                f"max_position_embeddings = {positions} needs a rotary table of "
                f"{positions * dim * 4 / (1 << 30):.1f} GiB; serve at most {MOST_TABLE_BYTES // (dim * 4)} positions "
                "(max_model_len)"
            )

    @cached_property
    def cos_sin(self) -> Tensor:
        """The table."""
        return _scaled_table(self.dim, self.positions, self.rope).to(self.device)


def _scaled_table(dim: int, positions: int, rope: Rope) -> Tensor:
    scaling = rope.scaling
    if isinstance(scaling, Llama3Scaling):
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        return kernels.llama3_cos_sin(
            dim, positions, rope.theta, scaling.factor, low, high, scaling.original_max_positions
        )
    if isinstance(scaling, Yarn):
        return _table(_yarn_frequencies(dim, rope.theta, scaling), positions, scaling.table_gain)
    if isinstance(scaling, LinearScaling):
        return _table(_frequencies(dim, rope.theta) / scaling.factor, positions, 1.0)
    return kernels.cos_sin(dim, positions, rope.theta)


def _frequencies(dim: int, theta: float) -> Tensor:
    """Angle per position of each pair, fp32 [dim / 2]."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _yarn_frequencies(dim: int, theta: float, yarn: Yarn) -> Tensor:
    """Interpolated where a pair turns slowly, kept where it turns fast, a ramp between."""

    def pair(turns: float) -> float:
        return dim * math.log(yarn.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    plain = _frequencies(dim, theta)
    return plain / yarn.factor * ramp + plain * (1 - ramp)


def _table(frequencies: Tensor, positions: int, gain: float) -> Tensor:
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos() * gain, angles.sin() * gain), dim=-1)
