"""Tiny random checkpoints of any model that transformers knows, saved by transformers under the checkpoint's own names.

The names, shapes and numbers to compare with are thus none of ours.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
"""Fields that decoders share; sizes odd enough to notice mixed-up dimensions."""
DELTA: dict[str, Any] = {
    "full_attention_interval": 3,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 14,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "partial_rotary_factor": 0.5,
}
"""Fields of Qwen 3.5."""
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **{name: value for name, value in COMMON.items() if name not in ("head_dim", "num_key_value_heads")},
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_key_value_heads": 6,
        "intermediate_size": 100,
        "moe_intermediate_size": 44,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "q_lora_rank": 40,
        "kv_lora_rank": 28,
        "qk_nope_head_dim": 20,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "attention_bias": False,
        "num_nextn_predict_layers": 1,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "gpt_oss": {
        **COMMON,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "intermediate_size": 44,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": 7,
        "attention_bias": True,
        "swiglu_limit": 7.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
    },
    "llama": {**COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "intermediate_size": 100},
    "qwen3": {**COMMON, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "intermediate_size": 100},
    "qwen3_5": {
        **COMMON,
        **DELTA,
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "intermediate_size": 100,
    },
    "qwen3_5_moe": {
        **COMMON,
        **DELTA,
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 44,
        "shared_expert_intermediate_size": 52,
    },
    "qwen3_moe": {
        **COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "intermediate_size": 100,
        "moe_intermediate_size": 44,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "minimax_m2": {
        **COMMON,
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "intermediate_size": 44,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "rotary_dim": 6,
        "scoring_func": "sigmoid",
        "use_qk_norm": True,
    },
}
"""A configuration of each model as its ``config.json`` has it."""


def tiny_config(model: str, **changes: Any) -> dict[str, Any]:
    """``MODELS[model]`` with ``changes``; a field that becomes ``...`` is left out."""
    return {name: value for name, value in {**MODELS[model], **changes}.items() if value is not ...}


def write_tiny(folder: Path, raw: dict[str, Any], *, seed: int = 0, shard: str = "5GB") -> Any:
    """Write ``raw`` as config.json and random bf16 weights; gives transformers' model with them, in float32.

    ``shard`` is the most that one file may hold, such as ``100KB``.
    """
    from transformers import AutoConfig

    fields = {name: value for name, value in raw.items() if name not in ("architectures", "quantization_config")}
    config: Any = AutoConfig.for_model(**json.loads(json.dumps(fields)))
    model = _made(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" not in name:
                tensor.copy_(_random(name, tensor, generator, raw["model_type"] == "gpt_oss"))
    model = model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    (folder / "config.json").write_text(json.dumps(raw))
    return _float_again(model, config)


def _random(name: str, like: Tensor, generator: torch.Generator, transposed: bool) -> Tensor:
    """Matrices that keep the size of what they multiply, gains near one, biases small; rounded to bf16."""
    value = torch.randn(like.shape, generator=generator)
    if name.endswith("A_log"):
        value = value.abs()
    elif name.endswith(("norm.weight", "layernorm.weight")):
        value = like.float().round().clamp(0, 1) + 0.1 * value
    elif like.dim() < 2:
        value = 0.3 * value
    else:
        inputs = like.shape[-2] if transposed and like.dim() == 3 else like.shape[-1]
        value = value * inputs**-0.5
    return value.bfloat16().to(like.dtype)


def _float_again(model: Any, config: Any) -> Any:
    """``model`` in float32, with the rotary frequencies that a cast to bf16 has rounded made anew."""
    fresh = _made(config).float().eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    return fresh


def _made(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager")
