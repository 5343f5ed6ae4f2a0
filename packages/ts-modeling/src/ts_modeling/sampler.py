"""Drawing tokens while logits stay cut over the ranks that hold the vocabulary."""

from dataclasses import dataclass

from torch import Tensor

from .compiler import Forward
from .errors import ConfigError


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Logits of this rank's part of the vocabulary, and how each row is drawn (see ``ts_kernels.sampling.sample``)."""

    logits: Tensor
    """fp32 [S, V / ranks of ``attn_tp``]."""
    temperature: Tensor
    """fp32 [S]."""
    top_k: Tensor
    """int32 [S]."""
    top_p: Tensor
    """fp32 [S]."""
    seeds: Tensor
    """int64 [S]."""
    positions: Tensor
    """int64 [S]."""
    dp_sizes: tuple[int, ...] = ()

    @property
    def tokens(self) -> Tensor:
        """What collectives count rows of."""
        return self.seeds


@dataclass(frozen=True, slots=True)
class LoadedSampler:
    """``draw`` gives tokens and log probabilities of rows that are greedy or have a ``top_k`` from 1 to ``count``; any
    row can be drawn of what ``gather`` gives.

    Penalties, biases and masks act on logits before, on each rank's columns: those from ``start`` on.
    """

    count: int
    start: int
    code: str
    """Source of ``forward``."""
    forward: Forward
    gather: Forward
    """All logits of a ``SampledRows``, fp32 [S, V], on every rank."""

    def draw(self, rows: SampledRows) -> tuple[Tensor, Tensor]:
        """int32 [S] and fp32 [S], the same on every rank. Raises ``ConfigError`` for rows that need all logits.

        The rows' parameters are looked at, so they should be on the CPU, or checked before by ``takes``.
        """
        if not self.takes(rows.temperature, rows.top_k):
            raise ConfigError(
                f"a row is neither greedy nor has a top_k from 1 to {self.count}, the candidates of a rank; load with "
                "more candidates, or sample from what gather gives"
            )
        tokens, logprobs = self.forward(rows)
        return tokens, logprobs

    def takes(self, temperature: Tensor, top_k: Tensor) -> bool:
        """Whether every row's draw is among the candidates."""
        return bool(((temperature <= 0) | ((top_k >= 1) & (top_k <= self.count))).all())
