"""Configurations and checkpoints of the models: what is honoured, refused by name, or stored in another way."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ts_modeling import CheckpointError, ConfigError, Mesh, MeshError, kv_spec, load_model
from ts_modeling.models.minimax_m2 import MiniMaxM2Config
from ts_modeling.registry import ARCHITECTURES, build, config_from, table_of
from ts_modeling.testing import MODELS, oracle_logits, run_whole, tiny_config, write_tiny

PROMPT = list(range(3, 40))
PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_sizes.json").read_text())


def refusal(model: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from(tiny_config(model, **changes))
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "field", "value", "message"),
    [
        ("llama", "hidden_act", "gelu", "hidden_act = 'gelu' is not supported"),
        ("llama", "mlp_bias", True, "mlp_bias = True"),
        ("llama", "num_key_value_heads", 4, "num_key_value_heads = 4 must divide num_attention_heads = 6"),
        ("llama", "head_dim", 11, "head_dim = 11 leaves 11 rotary columns"),
        ("llama", "partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5"),
        ("llama", "rope_theta", 1, "rope_theta = 1"),
        ("llama", "intermediate_size", ..., "intermediate_size"),
        ("llama", "vocab_size", 1 << 30, "vocab_size"),
        ("llama", "rope_parameters", {"partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor = 0.5"),
        ("qwen3", "layer_types", ["full_attention"], "layer_types has 1 entries for 3 layers"),
        ("qwen3", "layer_types", ["full_attention", "linear_attention", "full_attention"], "'linear_attention'"),
        ("qwen3", "layer_types", ["full_attention", "sliding_attention", "full_attention"], "use_sliding_window"),
        ("gpt_oss", "sliding_window", None, "but sliding_window is off"),
        ("qwen3_moe", "num_experts_per_tok", 7, "num_experts_per_tok = 7 exceeds num_experts = 6"),
        ("qwen3_moe", "num_experts", 1 << 16, "more experts than"),
        ("qwen3_moe", "decoder_sparse_step", 0, "decoder_sparse_step"),
        ("minimax_m2", "scoring_func", "softmax", "scoring_func = 'softmax'"),
        ("minimax_m2", "use_qk_norm", False, "use_qk_norm = False"),
        ("minimax_m2", "rotary_dim", 24, "rotary_dim = 24 exceeds the 12 columns of a head"),
        ("minimax_m2", "rotary_dim", 5, "head_dim = 12 with partial_rotary_factor = 0.416667 leaves 5 rotary columns"),
        ("qwen3_5", "partial_rotary_factor", 0.25, "with partial_rotary_factor = 0.25 leaves 3 rotary columns"),
        ("minimax_m2", "rotary_dim", [6], "at `rotary_dim`"),
        ("minimax_m2", "rotary_dim", 10**400, "rotary_dim"),
        ("minimax_m2", "head_dim", 0, "at `head_dim`"),
        ("minimax_m2", "head_dim", False, "at `head_dim`"),
        ("minimax_m2", "head_dim", "12", "at `head_dim`"),
        ("minimax_m2", "head_dim", {}, "at `head_dim`"),
        ("minimax_m2", "attn_type_list", 1, "at `attn_type_list`"),
        ("minimax_m2", "attn_type_list", True, "at `attn_type_list`"),
        ("minimax_m2", "attn_type_list", [1, 0, 1], "attn_type_list"),
        ("minimax_m2", "shared_intermediate_size", 64, "shared_intermediate_size = 64"),
        ("gpt_oss", "rope_scaling", ..., "rope_scaling is missing"),
        ("gpt_oss", "layer_types", [], "layer_types has 0 entries"),
        ("gpt_oss", "swiglu_limit", 0, "swiglu_limit"),
        ("gpt_oss", "sliding_window", 0, "sliding_window"),
        ("qwen3_5", "linear_num_key_heads", 3, "linear_num_key_heads = 3 must divide linear_num_value_heads = 4"),
        ("qwen3_5", "attn_output_gate", False, "attn_output_gate = False"),
        ("qwen3_5", "linear_conv_kernel_dim", 1, "linear_conv_kernel_dim"),
        ("qwen3_5", "intermediate_size", ..., "intermediate_size is missing, and so is num_experts"),
        ("qwen3_5_moe", "mlp_only_layers", [1], "mlp_only_layers = [1]"),
        ("llama", "rope_scaling", 0, "rope_scaling is a int"),
        ("llama", "rope_scaling", False, "rope_scaling is a bool"),
        ("llama", "rope_scaling", {"a": None}, "rope_scaling has a and no rope_type"),
        ("llama", "rope_parameters", {"factor": 2.0}, "rope_parameters has factor and no rope_type"),
        ("llama", "rope_scaling", {"type": "default", "factor": 2.0}, "rope_scaling.factor = 2.0 is not supported"),
        ("deepseek_v3", "topk_group", 9, "topk_group = 9 exceeds n_group = 8"),
        ("deepseek_v3", "topk_group", 1, "num_experts_per_tok = 4 exceeds the 2 experts of topk_group = 1 groups"),
    ],
)
def test_bad_values_are_refused_by_name(model: str, field: str, value: Any, message: str) -> None:
    assert message in refusal(model, **{field: value})


@pytest.mark.parametrize("field", ["hidden_act", "rope_theta", "quantization_config", "architectures"])
@pytest.mark.parametrize("value", ["x" * 100_000, [0] * 100_000, {"quant_method": "x" * 100_000}], ids=type)
def test_a_value_of_any_length_is_refused_in_one_line(field: str, value: Any) -> None:
    message = refusal("llama", **{field: value})
    assert field.removesuffix("_config") in message
    assert len(message) < 600


DOUBLED = {"rope_type": "linear", "factor": 2.0}


def test_two_sets_of_rotary_fields_must_say_the_same() -> None:
    """Programs differ on which of them counts."""
    both = {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {**DOUBLED, "rope_theta": 7.0}}
    config = config_from(tiny_config("llama", rope_theta=7.0, **both))
    assert config == config_from(tiny_config("llama", rope_theta=7.0, rope_parameters=DOUBLED))
    for other in ({"rope_theta": 7.0}, {**DOUBLED, "factor": 3.0, "rope_theta": 7.0}, {**DOUBLED, "rope_theta": 8.0}):
        assert "disagree" in refusal("llama", rope_theta=7.0, rope_scaling=DOUBLED, rope_parameters=other)


@pytest.mark.parametrize("value", ["false", None, [1], 1])
def test_tied_embeddings_of_a_multimodal_file_are_true_or_false(value: Any) -> None:
    raw = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": tiny_config("qwen3_5")}
    with pytest.raises(ConfigError, match=r"tie_word_embeddings = .*; expected true or false"):
        config_from({**raw, "tie_word_embeddings": value})


def test_a_target_is_for_drafts_alone(tmp_path: Path) -> None:
    write_tiny(tmp_path, tiny_config("llama"))
    with pytest.raises(ConfigError, match=r"target = '/nowhere': only draft heads have a target"):
        load_model(tmp_path, target="/nowhere")


def test_minimax_without_a_head_width_divides_the_hidden_size() -> None:
    """And the turning part is of that width."""
    raw = tiny_config("minimax_m2", head_dim=None, hidden_size=96, num_attention_heads=6, rotary_dim=4)
    config = config_from(raw)
    assert isinstance(config, MiniMaxM2Config)
    assert (config.head_width, config.rotary_width) == (16, 4)


def test_every_architecture_of_a_model_is_known() -> None:
    assert {name for raw in MODELS.values() for name in raw["architectures"]} <= ARCHITECTURES.keys()
    with pytest.raises(ConfigError, match=r"the nearest is Qwen3MoeForCausalLM; known are DeepseekV3ForCausalLM, "):
        config_from({"architectures": ["Qwen3MoEForCausalLM"]})


@pytest.mark.parametrize(
    ("model", "mesh", "message"),
    [
        ("llama", "attn_tp=4", r"num_attention_heads = 6 with num_key_value_heads = 2 .*attn_tp that fit: 1, 2, 6$"),
        ("qwen3_5", "attn_tp=3,dense_tp=1", r"linear_num_value_heads = 4 .*attn_tp that fit: 1, 2$"),
        (
            "qwen3_moe",
            "attn_dp=4,moe_ep=4",
            r"num_experts = 6 does not divide .*moe_ep that fit: 1, 2, 3, 6$",
        ),
        ("gpt_oss", "attn_dp=45,moe_tp=45", r"intermediate_size = 44 is less than moe_tp=45"),
    ],
)
def test_a_mesh_that_does_not_divide_is_told_which_sizes_do(model: str, mesh: str, message: str) -> None:
    config = config_from(tiny_config(model, vocab_size=324))
    with pytest.raises(MeshError, match=message):
        build(config, Mesh.parse(mesh), dtype=torch.float32, device=torch.device("cpu"), positions=8)


@pytest.mark.parametrize(
    ("raw", "mesh", "sizes"),
    [
        (tiny_config("llama", num_attention_heads=10), "attn_tp=4", "1, 2, 10"),
        (tiny_config("qwen3_5", linear_num_value_heads=6, num_key_value_heads=1), "attn_tp=4", "1, 2, 6"),
        (PUBLISHED["minimax-m2"]["config"], "attn_tp=6,dense_tp=1", "1, 2, 4, 8, 16, 24, 48"),
    ],
)
def test_sizes_that_fit_include_those_that_share_key_heads(raw: dict[str, Any], mesh: str, sizes: str) -> None:
    """A head's rows are whole then, whatever its width or its blocks are."""
    options: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "positions": 8}
    config = config_from(raw)
    with pytest.raises(MeshError, match=f"attn_tp that fit: {sizes}$"):
        build(config, Mesh.parse(mesh), **options)
    for size in map(int, sizes.split(", ")):
        build(config, Mesh.parse(f"attn_tp={size},dense_tp=1"), **options)


def test_key_heads_are_cut_and_shared_in_the_cache() -> None:
    config = config_from(tiny_config("llama", num_attention_heads=4))
    each = [kv_spec(config, Mesh.parse(f"attn_tp={n}"), dtype=torch.bfloat16).groups[0].shapes[0] for n in (1, 2, 4)]
    assert each == [(2, 12), (1, 12), (1, 12)]


def test_groups_have_the_scheduler_s_names() -> None:
    spec = kv_spec(config_from(tiny_config("gpt_oss")), Mesh.single(), dtype=torch.bfloat16)
    assert [(g.kind, g.layers, g.window) for g in spec.groups] == [("window", (0, 2), 7), ("full", (1,), 0)]
    spec = kv_spec(config_from(tiny_config("qwen3_5")), Mesh.single(), dtype=torch.bfloat16)
    assert [(g.kind, g.layers) for g in spec.groups] == [("state", (0, 1)), ("full", (2,))]
    channels = 2 * 2 * 10 + 4 * 14
    assert spec.groups[0].shapes == ((3, channels), (4, 10, 14))
    assert spec.bytes_per_state == 2 * 4 * (3 * channels + 4 * 10 * 14)
    assert spec.bytes_per_token == 2 * 2 * 2 * 12


def rewritten(folder: Path, raw: dict[str, Any], change: Any) -> None:
    """The folder's tensors and config.json as ``change(tensors)`` and ``raw`` have them."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t.contiguous() for name, t in change(tensors).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("model", ["qwen3_5", "qwen3_5_moe"])
def test_the_text_part_of_a_multimodal_checkpoint(tmp_path: Path, model: str) -> None:
    """As published: nested fields, ``model.language_model.``, a layer's experts in one tensor, other parts beside."""
    raw = tiny_config(model)
    reference = write_tiny(tmp_path, raw)

    def publish(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for layer in range(3) if model == "qwen3_5_moe" else ():
            stem = f"model.layers.{layer}.mlp.experts"
            take = lambda part, stem=stem: [tensors.pop(f"{stem}.{e}.{part}_proj.weight") for e in range(6)]  # noqa: E731
            gate, up, down = take("gate"), take("up"), take("down")
            tensors[f"{stem}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gate, up, strict=True)])
            tensors[f"{stem}.down_proj"] = torch.stack(down)
        out = {n.replace("model.", "model.language_model.", 1): t for n, t in tensors.items()}
        return out | {"model.visual.patch_embed.proj.weight": torch.zeros(2), "mtp.fc.weight": torch.zeros(2)}

    outer = raw["architectures"][0].replace("ForCausalLM", "ForConditionalGeneration")
    rewritten(tmp_path, {"architectures": [outer], "text_config": raw}, publish)
    ours = run_whole(load_model(tmp_path, dtype="float32"), PROMPT)
    theirs = oracle_logits(reference, PROMPT)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_a_tied_matrix_that_the_file_holds_twice_is_left_alone(tmp_path: Path) -> None:
    raw = tiny_config("llama", tie_word_embeddings=True)
    write_tiny(tmp_path, raw)
    expected = run_whole(load_model(tmp_path), PROMPT)
    rewritten(tmp_path, raw, lambda tensors: {**tensors, "lm_head.weight": torch.zeros(320, 72)})
    assert torch.equal(run_whole(load_model(tmp_path), PROMPT), expected)


@pytest.mark.parametrize("model", MODELS)
def test_tables_and_checkpoints_agree_both_ways(tmp_path: Path, model: str) -> None:
    """A tensor too few and one too many are named."""
    raw = tiny_config(model)
    write_tiny(tmp_path, raw)
    lost = next(name for name in load_file(tmp_path / "model.safetensors") if "layers.1." in name)
    rewritten(tmp_path, raw, lambda t: {"model.layers.1.else.weight": t.pop(lost), **t})
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert f"{lost} missing" in str(caught.value)
    assert "model.layers.1.else.weight unknown" in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
def test_dummy_weights_give_finite_logits(tmp_path: Path, model: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(model)))
    logits = run_whole(load_model(tmp_path, load_format="dummy"), PROMPT)
    assert torch.isfinite(logits).all()
    assert 0.1 < float(logits.std()) < 10


def test_tables_name_each_leaf_s_parts_once() -> None:
    for model in MODELS:
        entries = table_of(config_from(tiny_config(model))).entries
        parts = [(e.module, e.part) for e in entries]
        assert len(set(parts)) == len(parts), model


BYTES = {
    "llama3-70b": 80 * 2 * 128 * 2,
    "minimax-m2": 62 * 2 * 2 * 128 * 2,
    "gpt-oss-120b": 36 * 2 * 8 * 64 * 2,
    "qwen3.5-35b": 10 * 2 * 256 * 2,
    "deepseek-v3": 61 * (512 + 64) * 2,
    "qwen3-235b": 94 * 2 * 128 * 2,
}
"""Of a token on one rank: layers x keys and values x its heads x width x bf16."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_published_sizes_compile_and_say_what_they_cache(name: str) -> None:
    mesh, config = Mesh.parse(PUBLISHED[name]["mesh"]), config_from(PUBLISHED[name]["config"])
    began = time.monotonic()
    build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=1)
    assert time.monotonic() - began < 20, "1.3 s on a busy machine of two cores"
    assert table_of(config).entries
    assert kv_spec(config, mesh, dtype=torch.bfloat16).bytes_per_token == BYTES[name]
