"""Models in the formats that they are published in, against transformers on what the tensors mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import MeshError, load_model
from ts_modeling.placement import Mesh
from ts_modeling.testing import mxfp4_experts, oracle_logits, quantize_tiny, run_chunked, tiny_config

PROMPT = torch.randint(320, (45,), generator=torch.Generator().manual_seed(7)).tolist()
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 64,
    "intermediate_size": 256,
}
"""Multiples of FP8's blocks, so that nothing is dequantized to bf16 on the way."""
MOE = {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 128, "num_experts": 4}
DELTA = {"linear_key_head_dim": 64, "linear_value_head_dim": 64, "full_attention_interval": 2}
LINEARS = r"_proj$|experts\.\d+\.w\d$"
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, list[str]]]] = {
    "llama-int4": ("int4-128", LINEARS, {}, {"ignore": ["lm_head"]}),
    "llama-fp8": ("fp8-channel", LINEARS, {"tie_word_embeddings": True}, {"ignore": ["lm_head"]}),
    "qwen3-fp8": ("fp8-block", LINEARS, {}, {}),
    "qwen3_moe-fp8": ("fp8-block", LINEARS, MOE, {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}),
    "minimax_m2-fp8": ("fp8-block", LINEARS, {}, {"modules_to_not_convert": ["gate", "e_score_correction_bias"]}),
    "minimax_m2-nvfp4": ("nvfp4-modelopt", r"experts\.\d+\.w\d$", {}, {"ignore": ["*self_attn*", "lm_head"]}),
    "qwen3_5-fp8": (
        "fp8-block",
        r"(?<!in_proj_a)(?<!in_proj_b)(_proj|in_proj_qkv|in_proj_z)$",
        DELTA,
        {"modules_to_not_convert": ["in_proj_a", "model.layers.0.linear_attn.in_proj_b", "lm_head"]},
    ),
    "qwen3_5_moe-int4": (
        "int4-32",
        r"experts\.\d+\.\w+_proj$",
        {**MOE, **DELTA},
        {"ignore": ["re:.*self_attn.*", "re:.*linear_attn.*", "re:.*shared_expert.*", "lm_head"]},
    ),
}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(tmp_path: Path, name: str) -> None:
    format, modules, changes, lists = CASES[name]
    raw = tiny_config(name.partition("-")[0], **SIZES)
    raw |= {field: value for field, value in changes.items() if field in raw}
    reference = quantize_tiny(tmp_path, raw, format, modules, **lists)
    ours = run_chunked(load_model(tmp_path, dtype="float32"), PROMPT)
    assert relative(ours, oracle_logits(reference, PROMPT)) < 1e-4


def test_mxfp4_experts_equal_transformers(tmp_path: Path) -> None:
    raw = tiny_config("gpt_oss", hidden_size=96, intermediate_size=64, num_hidden_layers=2)
    reference = mxfp4_experts(tmp_path, raw)
    ours = run_chunked(load_model(tmp_path, dtype="float32"), PROMPT)
    assert relative(ours, oracle_logits(reference, PROMPT)) < 1e-4


def test_a_mesh_of_more_ranks_than_blocks_of_mxfp4_is_refused(tmp_path: Path) -> None:
    mxfp4_experts(tmp_path, tiny_config("gpt_oss", hidden_size=96, intermediate_size=96, num_hidden_layers=1))
    message = r"intermediate_size = 96 has 3 groups of 32 that share a scale, fewer than moe_tp=4; .*fit: "
    with pytest.raises(MeshError, match=message + "1, 2, 3$"):
        load_model(tmp_path, mesh=Mesh(4, {"attn_dp": 4, "moe_tp": 4}))
