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
    "llama-int4-but-down": (
        "int4-128",
        r"(?<!down)_proj$",
        {},
        {"ignore": ["lm_head", "re:.*down_proj"]},
    ),
    "qwen3-fp8-but-up": (
        "fp8-block",
        r"(?<!gate)(?<!up)_proj$",
        {},
        {"modules_to_not_convert": ["gate_proj", "up_proj", "lm_head"]},
    ),
    "qwen3_5_moe-int4-but-shared-down": (
        "int4-32",
        r"(expert\w*\.(\d+\.)?(gate|up)|experts\.\d+\.down)_proj$",
        {**MOE, **DELTA},
        {"ignore": ["re:.*_attn.*", "re:.*shared_expert.down_proj", "re:.*expert_gate$", "lm_head"]},
    ),
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


def test_experts_in_two_formats_are_held_in_bf16_which_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No kernel takes two formats at once: INT4 is rounded to bf16, once, and never without a word."""
    raw = tiny_config("qwen3_moe", **SIZES)
    raw |= {field: value for field, value in MOE.items() if field in raw}
    lists = {"ignore": ["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$", "re:.*down_proj"]}
    reference = quantize_tiny(tmp_path, raw, "int4-128", r"experts\.\d+\.(gate|up)_proj$", **lists)
    ours = run_chunked(load_model(tmp_path, dtype="float32"), PROMPT)
    assert 1e-6 < relative(ours, oracle_logits(reference, PROMPT)) < 1e-2
    (said,) = [record.getMessage() for record in caplog.records]
    assert ": layers.0.mlp.experts (and 1 more) has gate and up in " in said
    assert "down in plain: no kernel takes two formats, so what is quantized of them is rounded to bf16" in said


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
