"""EAGLE3's draft heads (arXiv 2503.01840) for one device; the compiler places them on a mesh.

Legend: T tokens, S sampled rows, D hidden, F features, W draft vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...kv import CacheGroup, KvSpec, group_layers
from ...layers import (
    MLP,
    AddRMSNorm,
    AnnotatedModel,
    AttentionShape,
    DraftVocabulary,
    Embedding,
    FuseFeatures,
    GroupedAttention,
    JoinColumns,
    LMHead,
    MLAAttention,
    MLAShape,
    RMSNorm,
    SelectRows,
    kv_group,
    rotary_table,
)
from ...placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from .config import DraftConfig, Eagle3Config, Eagle3MLAConfig

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
        hidden, vocabulary = Dim("hidden", config.hidden_size), Dim("vocabulary", config.vocab_size)
        features, columns = Dim("features", config.feature_width), Dim("draft_vocabulary", config.columns)
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


class Eagle3(Draft):
    """Llama's form."""

    def __init__(
        self, config: Eagle3Config, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        cos_sin = rotary_table(config.rotary_width, positions, config.rope).to(device)
        super().__init__(config, GroupedAttention(grouped_shape(config), mesh, cos_sin=cos_sin), mesh, dtype=dtype)


class Eagle3MLA(Draft):
    """The form with latent attention."""

    def __init__(
        self, config: Eagle3MLAConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        cos_sin = rotary_table(config.qk_rope_head_dim, positions, config.rope).to(device)
        attention = MLAAttention(latent_shape(config), mesh, cos_sin=cos_sin, dtype=dtype)
        super().__init__(config, attention, mesh, dtype=dtype)


def grouped_shape(config: Eagle3Config) -> AttentionShape:
    """Of the layer's attention."""
    name = f"{LAYER}.self_attn"
    return AttentionShape(
        hidden=config.hidden_size,
        inputs=2 * config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_width,
        eps=config.rms_norm_eps,
        schemes={"qkv": config.format_of(name, "q_proj", "k_proj", "v_proj"), "o": config.format_of(name, "o_proj")},
    )


def latent_shape(config: Eagle3MLAConfig) -> MLAShape:
    """Of the layer's attention; latents are normed with ``rms_norm_eps``, as programs that serve such heads do."""
    first, second = (("q_a_proj",), "q_b_proj") if config.q_lora_rank else ((), "q_proj")
    stacked = {"qkv_a": (*first, "kv_a_proj_with_mqa"), "q": (second,), "kv_b": ("kv_b_proj",), "o": ("o_proj",)}
    return MLAShape(
        hidden=config.hidden_size,
        inputs=2 * config.hidden_size,
        heads=config.num_attention_heads,
        q_latent=config.q_lora_rank,
        kv_latent=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        latent_eps=config.rms_norm_eps,
        scale=config.softmax_scale,
        schemes={part: config.format_of(f"{LAYER}.self_attn", *names) for part, names in stacked.items()},
    )


def grouped_kv_spec(config: Eagle3Config, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of the one layer."""
    return group_layers([kv_group(grouped_shape(config), 0, mesh, dtype)])


def latent_kv_spec(config: Eagle3MLAConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """One latent and one rotary key of the one layer."""
    width = config.kv_lora_rank + config.qk_rope_head_dim
    return KvSpec((CacheGroup(kind="full", layers=(0,), shapes=((width,),), dtype=dtype),))
