"""Kimi K2.5's text model for one device; the compiler places it on a mesh.

Legend: T tokens, S sampled rows, D hidden, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...kv import CacheGroup, KvSpec
from ...layers import (
    MLP,
    AddRMSNorm,
    CapturingModel,
    Embedding,
    LMHead,
    MLAAttention,
    MLAShape,
    MoE,
    MoEShape,
    PlaceMedia,
    RMSNorm,
    RotaryTable,
    SelectRows,
)
from ...placement import SAMPLES, TOKENS, Dim, Mesh, Replicate, Shard, Spec
from ...quantization import Scheme, scheme_of
from .config import KimiK25Config
from .vision import MoonViT

LATENT_EPS = 1e-6
"""Of the norms on the latents, whatever ``rms_norm_eps`` says: DeepSeek V3's code leaves them at this default."""


class KimiK25(CapturingModel):
    """Tokens in, logits of the sampled rows out; with ``capture`` hidden states too."""

    inputs: ClassVar[Mapping[str, Spec]] = {"batch.tokens": Spec(TOKENS, attn_dp=Shard("tokens"))}

    def __init__(
        self, config: KimiK25Config, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        super().__init__()
        hidden, vocabulary = Dim("hidden", config.hidden_size), Dim("vocabulary", config.vocab_size, uneven=True)
        rotary = RotaryTable(config.qk_rope_head_dim, positions, config.rope, device)
        self.embed = Embedding(vocabulary, hidden, mesh, dtype=dtype, axis="attn_tp")
        self.layers = nn.ModuleList(
            DecoderLayer(config, i, mesh, dtype=dtype, rotary=rotary) for i in range(config.num_hidden_layers)
        )
        self.select_x, self.select_residual = SelectRows(hidden), SelectRows(hidden)
        self.norm = AddRMSNorm(hidden, config.rms_norm_eps, dtype)
        self.head = LMHead(hidden, vocabulary, mesh, axis="attn_tp", scheme=scheme_of(config.quantization, "lm_head"))
        self.gives = Spec(SAMPLES, vocabulary, attn_tp=Replicate())
        self.media = PlaceMedia(hidden) if config.vision else None
        self.vision = MoonViT(config.vision, config.hidden_size, mesh, dtype=dtype) if config.vision else None

    def forward(self, batch: Any, cache: Any) -> Tensor | tuple[Tensor, Tensor]:
        """A ``ForwardBatch`` and one cache tensor a layer -> fp32 [S, V]."""
        x_TD, residual_TD = self.embed(batch.tokens), None
        captured: list[Tensor] = []
        if self.media is not None:  # without vision the compiled code has no trace of it
            x_TD = self.media(x_TD, batch)
        for i, layer in enumerate(self.layers):
            x_TD, residual_TD = layer(x_TD, residual_TD, batch, cache[i])
            self.keep(i, x_TD, residual_TD, captured)
        return self.finish(x_TD, residual_TD, batch.sample_indices, captured)


class DecoderLayer(nn.Module):
    """Attention and MLP, each normed before and added to the residual by the norm that follows.

    ``starts``: it is the first of its model, whatever ``index`` its names have.
    """

    def __init__(
        self,
        config: KimiK25Config,
        index: int,
        mesh: Mesh,
        *,
        dtype: torch.dtype,
        rotary: RotaryTable,
        starts: bool = False,
    ) -> None:
        super().__init__()
        hidden, eps = Dim("hidden", config.hidden_size), config.rms_norm_eps
        self.input_norm = RMSNorm(hidden, eps, dtype) if starts or not index else AddRMSNorm(hidden, eps, dtype)
        self.attention = MLAAttention(attention_shape(config, index), mesh, rotary=rotary, dtype=dtype)
        self.post_norm = AddRMSNorm(hidden, eps, dtype)
        self.mlp: nn.Module
        if config.is_dense(index):
            gate_up, down = mlp_schemes(config, index, "mlp")
            self.mlp = MLP(hidden, config.intermediate_size, mesh, axis="dense_tp", scheme=gate_up, down_scheme=down)
        else:
            self.mlp = MoE(moe_shape(config, index), mesh)

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None, batch: Any, cache: Any) -> tuple[Tensor, Tensor]:
        """Branch and residual [T, D] in, both out; the first layer starts the residual."""
        if residual_TD is None:
            residual_TD, x_TD = x_TD, self.input_norm(x_TD)
        else:
            x_TD, residual_TD = self.input_norm(x_TD, residual_TD)
        x_TD = self.attention(x_TD, batch, cache)
        x_TD, residual_TD = self.post_norm(x_TD, residual_TD)
        return self.mlp(x_TD), residual_TD


def mlp_schemes(config: KimiK25Config, layer: int, name: str) -> tuple[Scheme, Scheme]:
    """Formats of gate and up, and of down."""
    return config.scheme(layer, f"{name}.gate_proj", f"{name}.up_proj"), config.scheme(layer, f"{name}.down_proj")


def attention_shape(config: KimiK25Config, layer: int) -> MLAShape:
    """Widths and formats of one attention layer."""
    first, second = (("q_a_proj",), "q_b_proj") if config.q_lora_rank else ((), "q_proj")
    stacked = {"qkv_a": (*first, "kv_a_proj_with_mqa"), "q": (second,), "kv_b": ("kv_b_proj",), "o": ("o_proj",)}
    return MLAShape(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        q_latent=config.q_lora_rank,
        kv_latent=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        latent_eps=LATENT_EPS,
        scale=config.softmax_scale,
        schemes={part: config.scheme(layer, *(f"self_attn.{n}" for n in names)) for part, names in stacked.items()},
    )


def moe_shape(config: KimiK25Config, layer: int) -> MoEShape:
    """Sizes, routing and formats of one mixture layer."""
    routed, shared = (mlp_schemes(config, layer, f"mlp.{name}") for name in ("experts.0", "shared_experts"))
    return MoEShape(
        hidden=config.hidden_size,
        experts=config.n_routed_experts,
        intermediate=config.moe_intermediate_size,
        shared_intermediate=config.moe_intermediate_size * config.n_shared_experts,
        top_k=config.num_experts_per_tok,
        groups=config.groups[0],
        top_groups=config.groups[1],
        scale=config.routed_scaling_factor,
        normalize=config.norm_topk_prob,
        scheme=routed[0],
        down_scheme=routed[1],
        shared_scheme=shared[0],
        shared_down_scheme=shared[1],
    )


def kv_spec(config: KimiK25Config, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """One latent and one rotary key for each token and layer, shared by all heads and so whole on every rank."""
    width = config.kv_lora_rank + config.qk_rope_head_dim
    layers = tuple(range(config.num_hidden_layers))
    return KvSpec((CacheGroup(kind="full", layers=layers, shapes=((width,),), dtype=dtype),))
