"""Checkpoints that ask for an FP8 cache: theirs is wider here, which is said, and their scales are left alone."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ts_modeling import CheckpointError, load_model
from ts_modeling.testing import run_whole, write_checkpoint

FP8 = {"dynamic": False, "num_bits": 8, "type": "float"}
"""As ModelOpt writes it."""
SIZES = {"hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128, "q_lora_rank": 128}
SIZES |= {"kv_lora_rank": 128, "v_head_dim": 32, "num_hidden_layers": 2, "n_routed_experts": 4}
LATENT = ("kv_a_proj_with_mqa.k_scale",)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nvfp4-modelopt": ({"kv_cache_scheme": FP8}, (*LATENT, "k_proj.k_scale", "v_proj.v_scale")),
    "fp8-modelopt": ({"kv_cache_quant_algo": "FP8"}, LATENT),
    "fp8-channel": ({"kv_cache_scheme": {**FP8, "strategy": "tensor", "symmetric": True}}, ("k_scale", "v_scale")),
}


def ask_for_fp8(folder: Path, asked: dict[str, Any], scales: tuple[str, ...]) -> None:
    """Put the request into ``config.json``, and scales other than 1 beside the weights."""
    raw = json.loads((folder / "config.json").read_text())
    text = raw.get("text_config", raw)
    (text if "quantization_config" in text else raw)["quantization_config"] |= asked
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = load_file(folder / "model.safetensors")
    (prefix,) = {name.partition("model.layers.")[0] for name in tensors if "layers.0.self_attn" in name}
    for layer in range(2):
        name = f"{prefix}model.layers.{layer}.self_attn"
        tensors |= {f"{name}.{scale}": torch.tensor([0.0625]) for scale in scales}
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_the_request_is_told_of_and_changes_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked, scales = CASES[name]
    write_checkpoint(tmp_path, quantization=name, **SIZES)
    expected = run_whole(load_model(tmp_path, dtype="float32"), [5, 3, 8, 13, 21])
    assert not caplog.records
    ask_for_fp8(tmp_path, asked, scales)
    with caplog.at_level(logging.WARNING, logger="ts_modeling"):
        model = load_model(tmp_path, dtype="float32")
    (record,) = caplog.records
    assert "asks for an FP8 cache (kv_cache_" in record.getMessage()
    assert "it is held in float32" in record.getMessage()
    assert torch.equal(run_whole(model, [5, 3, 8, 13, 21]), expected)


def test_scales_that_nothing_speaks_of_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quantization="nvfp4-modelopt", **SIZES)
    ask_for_fp8(tmp_path, {"kv_cache_scheme": None}, LATENT)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.kv_a_proj_with_mqa\.k_scale.* unknown"):
        load_model(tmp_path)
