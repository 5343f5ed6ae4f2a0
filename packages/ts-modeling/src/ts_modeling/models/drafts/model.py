"""The frame of EAGLE3's draft heads (arXiv 2503.01840), whatever their attention.

Legend: T tokens, S sampled rows, D hidden, F features, W draft vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...layers import (
    MLP,
    AddRMSNorm,
    AnnotatedModel,
    DraftVocabulary,
    Embedding,
    FuseFeatures,
    JoinColumns,
    LMHead,
    RMSNorm,
    SelectRows,
)
from ...placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from .config import DraftConfig

LAYER = "midlayer"
"""What most files call the one layer."""


class Draft(AnnotatedModel):
    """Tokens and features in; logits of the sampled rows out, and the hidden states that their next step takes.

    A token stands beside the features of the position before it. ``column_ids`` says which token of the target each
    column of the logits is.
    """

    inputs: ClassVar[Mapping[str, Spec]] = {}

    def __init__(self, config: DraftConfig, attention: nn.Module, mesh: Mesh, *, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, vocabulary = Dim("hidden", config.hidden_size), Dim("vocabulary", config.vocab_size, uneven=True)
        features, columns = Dim("features", config.feature_width), Dim("draft_vocabulary", config.columns, uneven=True)
        tokens = {"attn_dp": Shard("tokens")}
        self.inputs = {"batch.tokens": Spec(TOKENS, **tokens), "batch.features": Spec(TOKENS, features, **tokens)}  # type: ignore[misc]
        self.embed = Embedding(vocabulary, hidden, mesh, dtype=dtype, axis="attn_tp")
        self.fuse = FuseFeatures(features, hidden, mesh, scheme=config.format_of("fc"))
        self.layer = DraftLayer(config, attention, mesh, dtype=dtype)
        self.select_x, self.select_residual = SelectRows(hidden), SelectRows(hidden)
        self.norm = AddRMSNorm(hidden, config.rms_norm_eps, dtype)
        self.head = LMHead(hidden, columns, mesh, axis="attn_tp", scheme=config.format_of("lm_head"))
        self.vocabulary = DraftVocabulary(config.columns, config.vocab_size)
        self.gives = (Spec(SAMPLES, columns, attn_tp=Replicate()), Spec(SAMPLES, hidden, attn_tp=Replicate()))

    def forward(self, batch: Any, cache: Any) -> tuple[Tensor, Tensor]:
        """A ``ForwardBatch`` with ``features``, and one cache entry -> fp32 [S, W], and hidden states [S, D]."""
        x_TD, residual_TD = self.layer(self.embed(batch.tokens), self.fuse(batch.features), batch, cache[0])
        indices_S = batch.sample_indices
        x_SD, hidden_SD = self.norm(self.select_x(x_TD, indices_S), self.select_residual(residual_TD, indices_S))
        return self.head(x_SD), hidden_SD

    @property
    def column_ids(self) -> Tensor | None:
        """As stored, once loaded."""
        return self.vocabulary.ids


class DraftLayer(nn.Module):
    """Attention over embedding and hidden state side by side, and an MLP; the residual is the hidden state."""

    def __init__(self, config: DraftConfig, attention: nn.Module, mesh: Mesh, *, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, eps, name = Dim("hidden", config.hidden_size), config.rms_norm_eps, f"{LAYER}.mlp"
        both = Dim("attention_inputs", 2 * config.hidden_size)
        self.normed_residual = config.norm_before_residual
        self.input_norm, self.hidden_norm = RMSNorm(hidden, eps, dtype), RMSNorm(hidden, eps, dtype)
        self.join = JoinColumns((hidden, hidden), both)
        self.attention = attention
        self.post_norm = AddRMSNorm(hidden, eps, dtype)
        gate_up, down = config.format_of(name, "gate_proj", "up_proj"), config.format_of(name, "down_proj")
        self.mlp = MLP(hidden, config.intermediate_size, mesh, axis="dense_tp", scheme=gate_up, down_scheme=down)

    def forward(self, embeds_TD: Tensor, hidden_TD: Tensor, batch: Any, cache: Any) -> tuple[Tensor, Tensor]:
        """[T, D] both -> branch and residual [T, D]."""
        normed_TD = self.hidden_norm(hidden_TD)
        residual_TD = normed_TD if self.normed_residual else hidden_TD
        x_TD = self.attention(self.join(self.input_norm(embeds_TD), normed_TD), batch, cache)
        x_TD, residual_TD = self.post_norm(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD
