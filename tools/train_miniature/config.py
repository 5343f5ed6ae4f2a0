"""The miniature's shape: the one place that states its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

N_RANKS = 5888
"""Ordinary BPE tokens, 256 single bytes included."""

N_SPECIAL = 256
"""Special ids behind the ranks, as in the full model (163584 ranks + 256)."""

INT4_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class MiniConfig:
    """Shape of the text model; field names follow the checkpoint's ``text_config``."""

    vocab_size: int = N_RANKS + N_SPECIAL
    hidden_size: int = 256
    num_hidden_layers: int = 5
    first_k_dense_replace: int = 1
    intermediate_size: int = 768
    moe_intermediate_size: int = 128
    n_routed_experts: int = 16
    num_experts_per_tok: int = 4
    n_shared_experts: int = 1
    routed_scaling_factor: float = 2.827
    num_attention_heads: int = 4
    q_lora_rank: int = 128
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    rms_norm_eps: float = 1e-5
    latent_norm_eps: float = 1e-6
    """Epsilon of ``q_a_layernorm`` and ``kv_a_layernorm``: transformers' DeepseekV3 uses its class default there."""
    rope_theta: float = 50000.0
    yarn_factor: float = 32.0
    original_max_position_embeddings: int = 1024
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    yarn_mscale: float = 1.0
    yarn_mscale_all_dim: float = 1.0
    max_position_embeddings: int = 32768
    num_nextn_predict_layers: int = 1

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head, unrotated and rotated parts together."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def to_hf(self) -> dict[str, Any]:
        """Return the checkpoint's ``config.json`` content in the full model's layout."""
        shared = {
            "dtype": "bfloat16",
            "bos_token_id": N_RANKS,
            "eos_token_id": N_RANKS + 1,
            "pad_token_id": N_RANKS + N_SPECIAL - 1,
            "tie_word_embeddings": False,
        }
        text = self._sizes() | self._experts() | self._attention() | self._positions() | shared
        return {
            "architectures": ["KimiK25ForConditionalGeneration"],
            "model_type": "kimi_k25",
            **shared,
            "text_config": text | {"quantization_config": quantization()},
        }

    def _sizes(self) -> dict[str, Any]:
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "num_nextn_predict_layers": self.num_nextn_predict_layers,
            "initializer_range": 0.02,
            "use_cache": True,
        }

    def _experts(self) -> dict[str, Any]:
        return {
            "first_k_dense_replace": self.first_k_dense_replace,
            "moe_layer_freq": 1,
            "moe_intermediate_size": self.moe_intermediate_size,
            "n_routed_experts": self.n_routed_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "n_shared_experts": self.n_shared_experts,
            "n_group": 1,
            "topk_group": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "routed_scaling_factor": self.routed_scaling_factor,
        }

    def _attention(self) -> dict[str, Any]:
        return {
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_nope_head_dim,
            "qk_rope_head_dim": self.qk_rope_head_dim,
            "v_head_dim": self.v_head_dim,
            "attention_bias": False,
            "attention_dropout": 0.0,
        }

    def _positions(self) -> dict[str, Any]:
        return {
            "rope_theta": self.rope_theta,
            "rope_scaling": {
                "type": "yarn",
                "factor": self.yarn_factor,
                "original_max_position_embeddings": self.original_max_position_embeddings,
                "beta_fast": self.yarn_beta_fast,
                "beta_slow": self.yarn_beta_slow,
                "mscale": self.yarn_mscale,
                "mscale_all_dim": self.yarn_mscale_all_dim,
            },
            "max_position_embeddings": self.max_position_embeddings,
        }


def quantization() -> dict[str, Any]:
    """Return the ``quantization_config``: routed experts alone are INT4."""
    weights = {
        "type": "int",
        "num_bits": 4,
        "strategy": "group",
        "group_size": INT4_GROUP,
        "symmetric": True,
        "dynamic": False,
        "observer": "minmax",
    }
    group = {"targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": [
            "lm_head",
            "re:.*self_attn.*",
            "re:.*shared_experts.*",
            "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
        ],
        "config_groups": {"group_0": group},
    }
