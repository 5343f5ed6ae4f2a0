"""Sampling while the vocabulary is cut: the best candidates of each rank, and the draw among all ranks' candidates; or
the logits gathered, for rows whose draw may need any of them.

Legend: S sampled rows, V vocabulary of this rank, P ranks, C candidates of one rank, N numbers of one rank (2 C + 1).
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from ts_kernels import sampling

from ..placement import OPAQUE, SAMPLES, Boundary, Dim, Gives, Mesh, Replicate, Shard, Spec
from .leaf import AnnotatedModel, Leaf
from .stack import uneven_span


class Candidates(Leaf):
    """The ``count`` highest logits of this rank, their tokens, and the log of the sum of all its exponentials.

    All of it is one row of fp32 numbers (tokens by their bits), so that one collective carries it.
    """

    memory = "own"

    def __init__(self, vocabulary: Dim, count: int, mesh: Mesh, *, axis: str) -> None:
        super().__init__()
        assert vocabulary.size is not None
        self.ranks, part = mesh.size(axis), uneven_span(vocabulary.name, vocabulary.size, mesh, axis)
        self.count, self.start = min(count, vocabulary.size // self.ranks), part.start  # as many on every rank
        self.numbers = Dim("candidates", self.ranks * (2 * self.count + 1))
        takes = Spec(SAMPLES, vocabulary, **{axis: Shard(vocabulary.name)}).sized(4)
        self.boundary = Boundary((takes,), (Spec(SAMPLES, self.numbers, **{axis: Shard("candidates")}).sized(4),))

    def forward(self, logits_SV: Tensor) -> Tensor:
        """[S, V] fp32 -> [S, N] fp32."""
        nothing_S = logits_SV.new_zeros(logits_SV.shape[0], dtype=torch.int32)
        best = sampling.logprobs(logits_SV, nothing_S, self.count)  # of equals the lower index, as the draw has it
        values_SC = logits_SV.gather(1, best.top_ids.long())
        total_S1 = (values_SC[:, :1] - best.top_values[:, :1]).nan_to_num(nan=-torch.inf)
        ids_SC = (best.top_ids + self.start).view(torch.float32)
        return torch.cat([values_SC, ids_SC, total_S1], dim=1)


class DrawAmong(Leaf):
    """The tokens that ``sampling.sample`` draws of all logits, where each row is greedy or has a ``top_k`` from 1 to
    the candidates of one rank; and their log probabilities."""

    memory = "own"

    def __init__(self, candidates: Candidates, *, axis: str) -> None:
        super().__init__()
        self.count, self.ranks = candidates.count, candidates.ranks
        takes = Spec(SAMPLES, candidates.numbers, **{axis: Replicate()}).sized(4)
        gives = Spec(SAMPLES, **{axis: Replicate()}).sized(4)
        self.boundary = Boundary((takes, OPAQUE), (gives, gives), names=("tokens", "logprobs"))

    def forward(self, numbers_SN: Tensor, rows: Any) -> tuple[Tensor, Tensor]:
        """[S, P * N] fp32 and ``SampledRows`` -> tokens int32 [S], -1 where there is none, and fp32 [S]."""
        parts_SPN = numbers_SN.view(numbers_SN.shape[0], self.ranks, 2 * self.count + 1)
        ids_SC = parts_SPN[..., self.count : -1].flatten(1).view(torch.int32)
        ids_SC, order_SC = ids_SC.sort(dim=1)  # the draw goes by the order of tokens
        values_SC = parts_SPN[..., : self.count].flatten(1).gather(1, order_SC)
        picks_S = sampling.sample(values_SC, rows.temperature, rows.top_k, rows.top_p, rows.seeds, rows.positions)
        places_S1 = picks_S.clamp(min=0).long()[:, None]
        tokens_S = torch.where(picks_S < 0, picks_S, ids_SC.gather(1, places_S1)[:, 0])
        logprobs_S = values_SC.gather(1, places_S1)[:, 0] - parts_SPN[..., -1].logsumexp(dim=1)
        return tokens_S, torch.where(picks_S < 0, -torch.inf, logprobs_S)


class VocabularySampler(AnnotatedModel):
    """Logits cut over the vocabulary in; tokens and their log probabilities out, on every rank."""

    gives: Gives
    inputs: ClassVar[dict[str, Spec]] = {}

    def __init__(self, logits: Spec, count: int, mesh: Mesh, *, axis: str) -> None:
        super().__init__()
        self.candidates = Candidates(logits.dims[1], count, mesh, axis=axis)
        self.draw = DrawAmong(self.candidates, axis=axis)
        self.inputs = {"batch.logits": _own(*logits.dims, axis=axis, cut=True)}  # type: ignore[misc]
        self.gives = tuple(_own(SAMPLES, axis=axis, cut=False) for _ in range(2))

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """A ``SampledRows`` -> int32 [S], fp32 [S]."""
        tokens_S, logprobs_S = self.draw(self.candidates(batch.logits), batch)
        return tokens_S, logprobs_S


class GatheredLogits(AnnotatedModel):
    """Logits cut over the vocabulary in; all of them out, on every rank."""

    gives: Gives
    inputs: ClassVar[dict[str, Spec]] = {}

    def __init__(self, logits: Spec, *, axis: str) -> None:
        super().__init__()
        self.inputs = {"batch.logits": _own(*logits.dims, axis=axis, cut=True)}  # type: ignore[misc]
        self.gives = _own(*logits.dims, axis=axis, cut=False)

    def forward(self, batch: Any) -> Tensor:
        """A ``SampledRows`` -> fp32 [S, V of all ranks]."""
        logits: Tensor = batch.logits
        return logits


def _own(*dims: Dim, axis: str, cut: bool) -> Spec:
    """Numbers of the samples of this ``attn_dp`` group; the last of ``dims`` is cut over ``axis``, or whole."""
    return Spec(*dims, attn_dp=Shard("samples"), **{axis: Shard(dims[-1].name) if cut else Replicate()}).sized(4)
