"""The frame of layers for multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2) as drafts.

Legend: T tokens, S sampled rows, D hidden, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...configuration import DecoderConfig
from ...layers import AddRMSNorm, AnnotatedModel, Embedding, JoinColumns, Linear, LMHead, RMSNorm, SelectRows
from ...placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from ...quantization import PLAIN, Scheme


class MultiToken(AnnotatedModel):
    """Tokens and the states before them in; logits of the sampled rows out, and the states that their next step takes.

    A token stands beside the target's state of the position before it, which the target's final norm has normed. States
    that it gives are normed as its own head reads them. ``offset`` is added to the norms' stored gains.
    """

    inputs: ClassVar[Mapping[str, Spec]] = {}

    def __init__(
        self,
        config: DecoderConfig,
        layer: nn.Module,
        mesh: Mesh,
        *,
        dtype: torch.dtype,
        project: Scheme = PLAIN,
        head: Scheme = PLAIN,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        hidden, vocabulary, both = (
            Dim("hidden", width),
            Dim("vocabulary", config.vocab_size, uneven=True),
            Dim("pairs", 2 * width),
        )
        tokens = {"attn_dp": Shard("tokens")}
        self.inputs = {"batch.tokens": Spec(TOKENS, **tokens), "batch.features": Spec(TOKENS, hidden, **tokens)}  # type: ignore[misc]
        self.embed = Embedding(vocabulary, hidden, mesh, dtype=dtype, axis="attn_tp")
        self.embed_norm, self.state_norm = RMSNorm(hidden, eps, dtype, offset), RMSNorm(hidden, eps, dtype, offset)
        self.join = JoinColumns((hidden, hidden), both)
        self.project = Linear(both, hidden, {"pair": width}, mesh, scheme=project)
        self.layer = layer
        self.select_x, self.select_residual = SelectRows(hidden), SelectRows(hidden)
        self.norm = AddRMSNorm(hidden, eps, dtype, offset)
        self.head = LMHead(hidden, vocabulary, mesh, axis="attn_tp", scheme=head)
        self.gives = (Spec(SAMPLES, vocabulary, attn_tp=Replicate()), Spec(SAMPLES, hidden, attn_tp=Replicate()))

    def forward(self, batch: Any, cache: Any) -> tuple[Tensor, Tensor]:
        """A ``ForwardBatch`` with ``features`` [T, D], and one cache entry -> fp32 [S, V], and states [S, D]."""
        pairs_TP = self.join(self.embed_norm(self.embed(batch.tokens)), self.state_norm(batch.features))
        x_TD, residual_TD = self.layer(self.project(pairs_TP), None, batch, cache[0])
        indices_S = batch.sample_indices
        x_SD, _ = self.norm(self.select_x(x_TD, indices_S), self.select_residual(residual_TD, indices_S))
        return self.head(x_SD), x_SD
