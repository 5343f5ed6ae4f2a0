"""Qwen 3.5: published checkpoints' layout, states, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from ts_modeling import CheckpointError, ConfigError, Mesh, MeshError, load_model
from ts_modeling.registry import build, config_from, kv_spec, table_of
from ts_modeling.testing import Sequences, new_cache, oracle_logits, run_whole, tiny_config, write_tiny

PROMPT = torch.randint(320, (21,), generator=torch.Generator().manual_seed(3)).tolist()
MODELS = ("qwen3_5", "qwen3_5_moe")


def publish(folder: Path, raw: dict[str, Any]) -> None:
    """Lay a folder out as published: the text model nested, experts in one tensor, vision and prediction beside."""
    text = {k: v for k, v in raw.items() if k not in ("architectures", "tie_word_embeddings")}
    name = raw["architectures"][0].replace("ForCausalLM", "ForConditionalGeneration")
    outer = {"architectures": [name], "text_config": text, "vision_config": {"depth": 1}}
    (folder / "config.json").write_text(json.dumps({**outer, "tie_word_embeddings": raw["tie_word_embeddings"]}))
    tensors = load_file(folder / "model.safetensors")
    out = {name.replace("model.", "model.language_model.", 1): t for name, t in fused(tensors, raw).items()}
    out |= {"mtp.fc.weight": torch.ones(2, 3), "model.visual.blocks.0.norm1.weight": torch.ones(4)}
    save_file(out, folder / "model.safetensors")


def fused(tensors: dict[str, Tensor], raw: dict[str, Any]) -> dict[str, Tensor]:
    out = {name: t for name, t in tensors.items() if ".experts." not in name}
    for layer in range(raw["num_hidden_layers"]) if "num_experts" in raw else ():
        stem = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([tensors[f"{stem}.{e}.{part}_proj.weight"] for e in range(raw["num_experts"])])
            for part in ("gate", "up", "down")
        )
        out |= {f"{stem}.gate_up_proj": torch.cat((gate, up), dim=1), f"{stem}.down_proj": down}
    return out


@pytest.fixture(scope="module", params=MODELS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("published")
    raw = tiny_config(request.param, num_hidden_layers=2, full_attention_interval=2)
    reference = write_tiny(folder, raw)
    publish(folder, raw)
    return folder, reference


def test_published_layouts_equal_transformers(published: tuple[Path, Any]) -> None:
    folder, reference = published
    ours, theirs = run_whole(load_model(folder, dtype="float32"), PROMPT), oracle_logits(reference, PROMPT)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_a_published_checkpoint_that_lacks_experts_says_which(published: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = published
    tensors = load_file(folder / "model.safetensors")
    gone = next(
        (n for n in tensors if n.endswith("experts.down_proj")), "model.language_model.layers.0.mlp.up_proj.weight"
    )
    save_file({name: t for name, t in tensors.items() if name != gone}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"{gone} missing"):
        load_model(tmp_path)


def test_dummy_weights_give_finite_logits(published: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = published
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    logits = run_whole(load_model(tmp_path, load_format="dummy"), PROMPT)
    assert torch.isfinite(logits).all()
    assert 0.1 < float(logits.std()) < 10


def test_a_slot_of_another_request_is_not_looked_at(published: tuple[Path, Any]) -> None:
    """A prompt begins from zeros in a used slot, and a step with another's state gives another result."""
    model = load_model(published[0], dtype="float32")
    rows = Sequences(2, 32)
    cache = new_cache(model, rows)
    first = model.forward(rows.batch(prefills=[(0, PROMPT)]), cache)
    model.forward(rows.batch(prefills=[(1, PROMPT[::-1])]), cache)
    again = Sequences(2, 32)
    assert torch.equal(model.forward(again.batch(prefills=[(0, PROMPT)]), cache), first)
    step = again.batch(decodes=[(0, [7])])
    states = [tuple(t.clone() for t in layer) for layer in cache]
    right = model.forward(step, cache)
    assert step.states is not None
    step.states.decode = again.slots[[1]]
    assert not torch.allclose(model.forward(step, list(states)), right, rtol=1e-2)


def test_states_are_declared_in_float32() -> None:
    config = config_from(tiny_config("qwen3_5", num_hidden_layers=4, full_attention_interval=4))
    spec = kv_spec(config, Mesh(2, {"attn_tp": 2}), dtype=torch.bfloat16)
    state, full = spec.groups
    assert (state.kind, state.layers, state.dtype) == ("state", (0, 1, 2), torch.float32)
    assert state.shapes == ((3, (2 * 2 * 10 + 4 * 14) // 2), (2, 10, 14))
    assert (full.kind, full.layers, full.dtype) == ("full", (3,), torch.bfloat16)
    assert spec.bytes_per_state == 3 * 4 * (3 * 48 + 2 * 10 * 14)
    assert spec.bytes_per_token == 2 * 12 * 2


def test_the_published_sizes_compile() -> None:
    """Names and sizes of Qwen3.5-35B-A3B's config.json."""
    raw = published_35b()
    config = config_from(raw)
    names = {entry.name for entry in table_of(config).chosen(()).entries}
    assert "model.language_model.layers.39.mlp.experts.gate_up_proj" in names
    assert "model.language_model.layers.3.self_attn.q_norm.weight" in names
    assert len(names) == 3 + 30 * 9 + 10 * 6 + 40 * (2 + 7)
    spec = kv_spec(config, Mesh.single(), dtype=torch.bfloat16)
    assert spec.bytes_per_token == 10 * 2 * 2 * 256 * 2
    assert spec.bytes_per_state == 30 * 4 * (3 * 8192 + 32 * 128 * 128)
    mesh = Mesh(4, {"attn_tp": 4, "moe_ep": 4, "dense_tp": 4})
    assert build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=8).plans.programs


def published_35b() -> dict[str, Any]:
    text = {
        "attention_bias": False,
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144,
        "moe_intermediate_size": 512,
        "mtp_num_hidden_layers": 1,
        "num_attention_heads": 16,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "shared_expert_intermediate_size": 512,
        "vocab_size": 248320,
    }
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "text_config": text,
        "tie_word_embeddings": False,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_output_gate": False}, "attn_output_gate = False"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"mamba_ssm_dtype": "bfloat16"}, "mamba_ssm_dtype = 'bfloat16'"),
        ({"mlp_only_layers": [1]}, r"mlp_only_layers = \[1\]"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 3 layers"),
        ({"layer_types": ["mamba"] * 3}, "layer_types holds 'mamba'; supported are full_attention, linear_attention"),
        ({"linear_num_value_heads": 5}, "linear_num_key_heads = 2 must divide linear_num_value_heads = 5"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
        ({"full_attention_interval": 0}, "full_attention_interval"),
        ({"partial_rotary_factor": 0.125, "head_dim": 8}, "1 rotary columns"),
        ({"intermediate_size": ...}, "intermediate_size"),
    ],
)
def test_what_the_model_does_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from(tiny_config("qwen3_5", **changes))


def test_more_chosen_experts_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_experts_per_tok = 7 exceeds num_experts = 6"):
        config_from(tiny_config("qwen3_5_moe", num_experts_per_tok=7))


def test_a_mesh_that_cuts_heads_names_the_sizes_that_do_not() -> None:
    config = config_from(tiny_config("qwen3_5", linear_num_key_heads=6, linear_num_value_heads=12))
    message = "linear_num_value_heads = 12 with linear_num_key_heads = 6 .* attn_tp=4; .* that fit: 1, 2"
    with pytest.raises(MeshError, match=message):
        build(config, Mesh(4, {"attn_tp": 4}), dtype=torch.float32, device=torch.device("cpu"), positions=8)


def test_a_tied_outer_configuration_ties_the_text_model() -> None:
    raw = published_35b()
    raw["tie_word_embeddings"] = True
    names = {entry.name for entry in table_of(config_from(raw)).chosen(()).entries}
    assert "lm_head.weight" not in names
