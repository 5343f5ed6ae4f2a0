"""The frame that decoders share: embedding, layers on one residual stream, norm and head.

Legend: T tokens, S sampled rows, D hidden, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..configuration import DecoderConfig
from ..layers import AddRMSNorm, CapturingModel, Embedding, LMHead, RMSNorm, SelectRows
from ..placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from ..quantization import PLAIN


class DecoderLayer(nn.Module):
    """Attention and MLP, each normed before and added to the residual by the norm that follows.

    ``offset`` is added to the norms' stored gains.
    """

    def __init__(
        self,
        config: DecoderConfig,
        index: int,
        attention: nn.Module,
        mlp: nn.Module,
        *,
        dtype: torch.dtype,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        hidden, eps = Dim("hidden", config.hidden_size), config.rms_norm_eps
        first = AddRMSNorm if index else RMSNorm
        self.input_norm = first(hidden, eps, dtype, offset)
        self.attention = attention
        self.post_norm = AddRMSNorm(hidden, eps, dtype, offset)
        self.mlp = mlp

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, batch: Any, cache: Any) -> tuple[Tensor, Tensor]:
        """Branch and residual [T, D] in, both out; the first layer starts the residual."""
        if residual_TD is None:
            residual_TD, x_TD = x_TD, self.input_norm(x_TD)
        else:
            x_TD, residual_TD = self.input_norm(x_TD, residual_TD)
        x_TD = self.attention(x_TD, batch, cache)
        x_TD, residual_TD = self.post_norm(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD


class Decoder(CapturingModel):
    """Tokens in, logits of the sampled rows out; with ``capture`` hidden states too."""

    inputs: ClassVar[Mapping[str, Spec]] = {"batch.tokens": Spec(TOKENS, attn_dp=Shard("tokens"))}

    def __init__(
        self,
        config: DecoderConfig,
        mesh: Mesh,
        layers: Iterable[nn.Module],
        *,
        dtype: torch.dtype,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        hidden, vocabulary = Dim("hidden", config.hidden_size), Dim("vocabulary", config.vocab_size, uneven=True)
        self.embed = Embedding(vocabulary, hidden, mesh, dtype=dtype, axis="attn_tp")
        self.layers = nn.ModuleList(layers)
        self.select_x, self.select_residual = SelectRows(hidden), SelectRows(hidden)
        self.norm = AddRMSNorm(hidden, config.rms_norm_eps, dtype, offset)
        scheme = PLAIN if config.tie_word_embeddings else config.format_of("lm_head")
        self.head = LMHead(hidden, vocabulary, mesh, axis="attn_tp", scheme=scheme)
        self.gives = Spec(SAMPLES, vocabulary, attn_tp=Replicate())

    def forward(self, batch: Any, cache: Any) -> Tensor | tuple[Tensor, Tensor]:
        """A ``ForwardBatch`` and one cache entry a layer -> fp32 [S, V]."""
        x_TD, residual_TD = self.embed(batch.tokens), None
        captured: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x_TD, residual_TD = layer(x_TD, residual_TD, batch, cache[i])
            self.keep(i, x_TD, residual_TD, captured)
        return self.finish(x_TD, residual_TD, batch.sample_indices, captured)
