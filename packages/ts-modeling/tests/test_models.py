"""Every model against transformers' implementation, on tiny random checkpoints that transformers saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_modeling import LoadedModel, load_model
from ts_modeling.testing import (
    MODELS,
    assert_close,
    oracle_logits,
    run_chunked,
    run_decodes,
    run_mixed,
    run_whole,
    tiny_config,
    write_tiny,
)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
GAINED = {
    **YARN,
    "original_max_position_embeddings": 128,
    "attention_factor": 1.25,
    "truncate": False,
    "beta_fast": 8.0,
    "beta_slow": 2.0,
}
NEWER = {"rope_theta": ..., "rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 3.0}}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7}
EVERY_HEAD = {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 24}
ONE_KEY = {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 16}
ONE_DELTA = {
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 5,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 33,
}
THREE = {"num_attention_heads": 3, "num_key_value_heads": 3}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-llama3-tied": {"rope_scaling": LLAMA3, "tie_word_embeddings": True},
    "llama-yarn-biases": {"rope_scaling": YARN, "attention_bias": True, **ONE_KEY},
    "llama-linear": {**NEWER, "head_dim": ..., "num_key_value_heads": ...},
    "llama-gain": {"rope_scaling": GAINED, "rms_norm_eps": 1e-3, "rope_theta": 100.0},
    "qwen3": {},
    "qwen3-windows": {**WINDOWS, "max_window_layers": 1, "rope_scaling": YARN},
    "qwen3-types": {**WINDOWS, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "qwen3-tied-biases": {"tie_word_embeddings": True, "attention_bias": True, "vocab_size": 321, **EVERY_HEAD},
    "qwen3_5": {},
    "qwen3_5-tied": {"tie_word_embeddings": True, "linear_conv_kernel_dim": 2, "linear_num_key_heads": 4},
    "qwen3_5-types": {"layer_types": ["full_attention", "linear_attention", "linear_attention"], **ONE_KEY},
    "qwen3_5-uneven": {"linear_num_key_heads": 3, "linear_num_value_heads": 9, "partial_rotary_factor": 1.0},
    "qwen3_5-half-yarn": {"rope_parameters": {**YARN, "rope_theta": 500.0, "partial_rotary_factor": 0.5}, **ONE_DELTA},
    "qwen3_5_moe": {},
    "qwen3_5_moe-tied": {"tie_word_embeddings": True, "num_experts_per_tok": 6, "rope_scaling": YARN},
    "qwen3_5_moe-whole": {"full_attention_interval": 1, **EVERY_HEAD},
    "qwen3_moe": {},
    "qwen3_moe-plain-weights": {"norm_topk_prob": False, "num_experts": 7, "rope_scaling": YARN},
    "qwen3_moe-sparse": {"decoder_sparse_step": 2, "num_hidden_layers": 4, "mlp_only_layers": [3], **WINDOWS},
    "qwen3_moe-tied": {"tie_word_embeddings": True, "num_experts_per_tok": 5, **ONE_KEY},
    "deepseek_v3": {},
    "deepseek_v3-one-group": {"n_group": 1, "topk_group": 1, "rope_scaling": None, "q_lora_rank": None},
    "deepseek_v3-gained": {"rope_scaling": {**GAINED, "mscale_all_dim": 0.7}, "n_group": 4, "topk_group": 1},
    "deepseek_v3-linear": {"rope_scaling": {"type": "linear", "factor": 3.0}, **THREE},
    "gpt_oss": {},
    "gpt_oss-types": {"layer_types": ["full_attention", "full_attention", "sliding_attention"], "swiglu_limit": 0.7},
    "gpt_oss-plain-rope": {"rope_scaling": {"rope_type": "default"}, "attention_bias": False, **EVERY_HEAD},
    "gpt_oss-tied": {"tie_word_embeddings": True, "num_experts_per_tok": 5, "sliding_window": 1, **ONE_KEY},
    "minimax_m2": {},
    "minimax_m2-whole-heads": {"rotary_dim": 12, "num_experts_per_tok": 1, "rope_scaling": YARN},
    "minimax_m2-one-key": {**ONE_KEY, "rotary_dim": 4, "num_local_experts": 5},
    "minimax_m2-tied": {**EVERY_HEAD, "rotary_dim": 10, "tie_word_embeddings": True},
}
PROMPT = torch.randint(320, (45,), generator=torch.Generator().manual_seed(7)).tolist()
OTHER = torch.randint(320, (45,), generator=torch.Generator().manual_seed(8)).tolist()


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    reference = write_tiny(folder, tiny_config(request.param.partition("-")[0], **CASES[request.param]))
    return load_model(folder, dtype="float32"), reference


@pytest.mark.parametrize("run", [run_whole, run_chunked, run_decodes])
def test_logits_equal_transformers(
    pair: tuple[LoadedModel, Any], run: Callable[[LoadedModel, list[int]], Tensor]
) -> None:
    model, reference = pair
    assert_close(run(model, PROMPT), oracle_logits(reference, PROMPT))


def test_mixed_batches_equal_transformers(pair: tuple[LoadedModel, Any]) -> None:
    """Two decodes beside two prefill chunks, pages shuffled, cache poisoned."""
    model, reference = pair
    expected = [oracle_logits(reference, prompt) for prompt in (PROMPT, OTHER)]
    for row, position, logits in run_mixed(model, PROMPT, OTHER):
        assert_close(logits, expected[row % 2][position])


@pytest.mark.parametrize("name", MODELS)
def test_other_types_stay_close(tmp_path: Path, name: str) -> None:
    """fp32 activations over a bf16 cache, and bf16 everywhere, where a close race between experts may end otherwise."""
    reference = write_tiny(tmp_path, tiny_config(name))
    expected = oracle_logits(reference, PROMPT)
    mixed, low = load_model(tmp_path), load_model(tmp_path, dtype="bfloat16")
    assert (mixed.dtype, mixed.kv_dtype, low.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    rows = (run_chunked(mixed, PROMPT) - expected).abs().amax(dim=1) / expected.abs().max()
    assert 0 < float(rows.quantile(0.75)) < 1e-2, rows
    for run in (run_whole, run_chunked, run_decodes):
        agreement = torch.nn.functional.cosine_similarity(run(low, PROMPT), expected, dim=-1)
        assert float(agreement.quantile(0.2)) > 0.99, agreement
