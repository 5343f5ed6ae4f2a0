"""Rotary position tables, with YaRN scaling (arXiv 2309.00071) where the configuration asks for it."""

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor
from ts_kernels import rope

from ..errors import ConfigError

MOST_TABLE_BYTES: Final = 1 << 30
"""Of a table: 4M positions of 64 dimensions. Making one takes several times as much."""


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN parameters as in a checkpoint's ``rope_scaling``."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0

    @property
    def softmax_gain(self) -> float:
        """What attention scores are multiplied by: the square of YaRN's magnitude for all dimensions."""
        if not self.mscale_all_dim or self.factor <= 1:
            return 1.0
        return (0.1 * self.mscale_all_dim * math.log(self.factor) + 1.0) ** 2


def rotary_table(dim: int, positions: int, theta: float, yarn: Yarn | None) -> Tensor:
    """Cosines and sines, fp32 [positions, dim]: cos half, then sin half.

    Raises ``ConfigError`` before anything is allocated if the table would exceed ``MOST_TABLE_BYTES``.
    """
    if positions * dim * 4 > MOST_TABLE_BYTES:
        raise ConfigError(
            f"max_position_embeddings = {positions} needs a rotary table of {positions * dim * 4 / (1 << 30):.1f} GiB; "
            f"serve at most {MOST_TABLE_BYTES // (dim * 4)} positions (max_model_len)"
        )
    scaling = yarn or Yarn(factor=1.0, original_max_positions=positions)
    return rope.yarn_cos_sin(
        dim,
        positions,
        theta,
        scaling.factor,
        scaling.original_max_positions,
        scaling.beta_fast,
        scaling.beta_slow,
        scaling.mscale,
        scaling.mscale_all_dim,
    )
