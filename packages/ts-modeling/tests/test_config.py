"""config.json: what is read, and what is refused by name."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import ConfigError, Mesh, load_model, read_config
from ts_modeling.cli import main
from ts_modeling.command import named_config
from ts_modeling.models.kimi_k25 import KimiK25Config, checkpoint_table
from ts_modeling.quantization import PLAIN, PackedInt
from ts_modeling.registry import Built, build, config_from, table_of
from ts_modeling.testing import INT4, text_config, tiny_config, write_checkpoint

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
INT4_32 = PackedInt(4, 32)
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}


def nested(**changes: Any) -> dict[str, Any]:
    return {"architectures": ["KimiK25ForConditionalGeneration"], "text_config": text_config(**changes)}


def whole(config: KimiK25Config) -> Built:
    return build(config, Mesh.single(), dtype=torch.float32, device=torch.device("cpu"), positions=8)


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        checkpoint_table(config_from(raw))
    return str(caught.value)


def test_the_published_model_is_understood() -> None:
    config = named_config("kimi-k2.5")
    assert isinstance(config, KimiK25Config)
    assert (config.num_hidden_layers, config.n_routed_experts, config.num_attention_heads) == (61, 384, 64)
    assert config.prefix == "language_model."
    assert config.scheme(0, "mlp.experts.0.gate_proj") == config.scheme(60, "mlp.experts.0.up_proj") == INT4_32
    assert config.softmax_scale == pytest.approx(192**-0.5 * (0.1 * 4.1588830833596715 + 1) ** 2)
    names = {entry.name for entry in checkpoint_table(config).entries}
    assert "language_model.model.layers.60.mlp.experts.383.down_proj.weight_packed" in names
    assert len(names) == 60 * (384 * 9 + 14) + 12 + 3


def test_plain_and_nested_mean_the_same() -> None:
    plain, inner = config_from(text_config()), config_from(nested())
    assert (plain.prefix, inner.prefix) == ("", "language_model.")
    assert plain.hidden_size == inner.hidden_size
    assert plain.rope == inner.rope


def test_rope_parameters_of_newer_files_are_read() -> None:
    text = text_config()
    scaling = text.pop("rope_scaling")
    theta = text.pop("rope_theta")
    text["rope_parameters"] = {**scaling, "rope_type": "yarn", "rope_theta": theta}
    text["rope_parameters"].pop("type")
    assert config_from(text) == config_from(text_config())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", None, "hidden_size"),
        ("hidden_size", "64", "hidden_size"),
        ("hidden_size", 0, "at `text_config.hidden_size`"),
        ("hidden_size", 10**12, "hidden_size"),
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("vocab_size", -5, "vocab_size"),
        ("num_attention_heads", 2.5, "num_attention_heads"),
        ("qk_rope_head_dim", 7, "qk_rope_head_dim"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps"),
        ("rope_theta", 0, "rope_theta"),
        ("hidden_act", "gelu", "hidden_act = 'gelu' is not supported; only 'silu' is"),
        ("scoring_func", "softmax", "scoring_func"),
        ("topk_method", "greedy", "topk_method"),
        ("tie_word_embeddings", True, "tie_word_embeddings"),
        ("attention_bias", True, "attention_bias"),
        ("moe_layer_freq", 2, "moe_layer_freq"),
        ("n_shared_experts", None, "n_shared_experts"),
        ("num_experts_per_tok", 9, "num_experts_per_tok = 9"),
        ("n_group", 3, "n_group = 3"),
        ("topk_group", 2, "topk_group = 2"),
        ("rope_interleave", None, "rope_interleave = None is not supported; only True is"),
        ("num_key_value_heads", 2, "num_key_value_heads"),
        ("model_type", "llama", "model_type 'llama'"),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "rope_scaling.type = 'dynamic'"),
        ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}, "rope_scaling.rope_type = 'longrope'"),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "beta_fast": 2.0}, "beta_fast = 2.0 is not supported"),
        ("rope_scaling", {"full_attention": {"rope_type": "yarn"}}, "rope_scaling.full_attention is an object"),
        ("rope_scaling", {**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor must exceed"),
        ("rope_scaling", {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings"),
        ("rope_scaling", {"type": "yarn", "factor": 0.5, "original_max_position_embeddings": 8}, "factor"),
        ("rope_scaling", "yarn", "rope_scaling"),
        ("rope_scaling", {**YARN, "attention_factor": 0}, "attention_factor"),
        ("rope_scaling", {**YARN, "truncate": "no"}, "truncate"),
        ("rope_scaling", {**YARN, "partial_rotary_factor": []}, "partial_rotary_factor = []"),
        ("num_key_value_heads", [4], "num_key_value_heads"),
        ("model_type", ["deepseek_v3"], "model_type ['deepseek_v3']"),
        ("n_routed_experts", 1 << 16, "more experts than 131072"),
    ],
)
def test_bad_values_are_refused_by_name(field: str, value: Any, message: str) -> None:
    raw = nested()
    raw["text_config"][field] = value
    assert message in refusal(raw)


@pytest.mark.parametrize(
    "field", ["hidden_size", "kv_lora_rank", "rope_theta", "routed_scaling_factor", "n_group", "topk_group"]
)
def test_missing_fields_are_named(field: str) -> None:
    raw = nested()
    del raw["text_config"][field]
    assert field in refusal(raw)


def changed(path: str, value: Any) -> dict[str, Any]:
    """Kimi's quantization with one value replaced."""
    quantization: dict[str, Any] = json.loads(json.dumps(INT4))
    target = quantization
    *parents, last = path.split(".")
    for key in parents:
        target = target[key]
    target[last] = value
    return quantization


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("quant_method", "awq"),
        ("format", "marlin-24"),
        ("config_groups", {}),
        ("config_groups.group_0.targets", ["Embedding"]),
        ("config_groups.group_0.input_activations", {"num_bits": 8}),
        ("config_groups.group_0.weights.num_bits", 3),
        ("config_groups.group_0.weights.symmetric", None),
        ("config_groups.group_0.weights.group_size", 48),
        ("config_groups.group_0.weights.actorder", "group"),
        ("kv_cache_scheme", {"num_bits": 8}),
        ("ignore", "lm_head"),
        ("ignore", ["re:("]),
    ],
)
def test_other_quantizations_are_refused_by_field(path: str, value: Any) -> None:
    raw = nested()
    raw["text_config"]["quantization_config"] = changed(path, value)
    assert path.rsplit(".", 1)[-1] in refusal(raw)


def test_the_ignore_list_decides_what_is_int4() -> None:
    raw = nested()
    quantization = config_from(raw).quantization
    assert quantization is not None
    assert quantization.scheme_of("model.layers.3.mlp.experts.7.up_proj") == INT4_32
    for name in ("lm_head", "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.up_proj"):
        assert quantization.scheme_of(name) == PLAIN
    raw["text_config"]["quantization_config"] = changed("ignore", ["re:.*experts.*", *INT4["ignore"]])
    assert config_from(raw).scheme(1, "mlp.experts.0.gate_proj") == PLAIN


def test_formats_that_differ_within_a_stack_are_refused_by_name() -> None:
    raw = nested()
    raw["text_config"]["quantization_config"] = changed("ignore", ["model.layers.0.self_attn.q_a_proj"])
    with pytest.raises(ConfigError, match=r"q_a_proj is plain, .*kv_a_proj_with_mqa is INT4"):
        whole(config_from(raw))


@pytest.mark.parametrize("expert", [0, 1, 7])
@pytest.mark.parametrize(
    "form", ["model.layers.1.mlp.experts.{}.up_proj", r"re:.*layers\.1\.mlp\.experts\.{}\.up_proj"]
)
@pytest.mark.parametrize("outer", ["", "language_model."])
def test_an_expert_in_another_format_is_named(expert: int, form: str, outer: str) -> None:
    ignored = form.format(expert).replace("model.", f"{outer}model.", 1)
    raw = nested()
    raw["text_config"]["quantization_config"] = changed("ignore", [*INT4["ignore"], ignored])
    message = refusal(raw)
    assert f"model.layers.1.mlp.experts.{expert}.up_proj is plain, other experts are INT4, groups of 32" in message
    assert "mixed formats are not supported" in message


def test_experts_of_models_with_usual_names_are_looked_at_too() -> None:
    quantization = changed("ignore", ["lm_head", "model.layers.2.mlp.experts.5.gate_proj"])
    raw = tiny_config("qwen3_moe", hidden_size=96, moe_intermediate_size=32, quantization_config=quantization)
    with pytest.raises(ConfigError, match=r"layers\.2\.mlp\.experts\.5\.gate_proj is plain, other experts are INT4"):
        table_of(config_from(raw))


def test_a_width_that_groups_do_not_divide_is_refused_by_name() -> None:
    raw = nested(moe_intermediate_size=40)
    with pytest.raises(ConfigError, match="moe_intermediate_size = 40 is no multiple of 32, as INT4, groups of 32"):
        whole(config_from(raw))


def test_other_architectures_are_refused() -> None:
    message = refusal({"architectures": ["DeepseekV4ForCausalLM"]})
    assert "'DeepseekV4ForCausalLM'" in message
    assert "the nearest is DeepseekV3ForCausalLM; known are DeepseekV3ForCausalLM, " in message
    assert "nearest" not in refusal({"architectures": ["Zzz"]})
    assert "architectures" in refusal({})
    assert "architectures" in refusal({"architectures": [["KimiK25ForConditionalGeneration"]]})


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("field", ["dtype", "kv_dtype", "load_format"])
def test_bad_arguments_are_named(tmp_path: Path, field: str) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=f"{field} = 'int7'"):
        load_model(tmp_path, **{field: "int7"})  # type: ignore[arg-type]


def test_kv_spec_counts_one_latent_a_layer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = load_model(tmp_path, load_format="dummy")
    assert model.kv_spec.bytes_per_token == 3 * (32 + 8) * 2
    cache = model.new_cache(5, 16)
    assert [tuple(layer.shape) for layer in cache] == [(5, 16, 40)] * 3
    assert sum(layer.nbytes for layer in cache) == 5 * 16 * model.kv_spec.bytes_per_token
    assert all(layer.is_contiguous() and layer.data_ptr() % 64 == 0 and not layer.any() for layer in cache)


def test_explain_tells_the_published_model_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--model", "kimi-k2.5", "--mesh", "attn_tp=4,moe_tp=4"]) == 0
    text = capsys.readouterr().out
    assert "all_reduce [sum] over attn_tp|dense_tp|moe_tp (4 ranks): 21,504 bytes a token" in text
    assert "layers.2 to layers.60, 59 alike" in text
    assert "each rank sends 2,623,488 bytes a token and 513,024 bytes a sample" in text


@pytest.mark.parametrize("ranks", [3, 5, 128])
def test_the_sizes_that_are_named_fit_the_whole_model(ranks: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What one tensor would take, another does not: any number cuts the vocabulary, and 5 divides no heads."""
    assert main(["explain", "--model", "kimi-k2.5", "--mesh", f"attn_tp={ranks}"]) == 2
    sizes = "sizes of attn_tp that fit: 1, 2, 4, 8, 16, 32, 64"
    error = capsys.readouterr().err
    assert error == f"ts-modeling: num_attention_heads = 64 does not divide over attn_tp={ranks}; {sizes}\n"


def test_explain_prints_code_and_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path)
    assert main(["explain", "--model", str(tmp_path), "--code"]) == 0
    assert capsys.readouterr().out.startswith("def forward(batch, cache):")
    assert main(["explain", "--model", str(tmp_path), "--mesh", "attn_tp=3,moe_tp=3"]) == 2
    assert "does not divide over attn_tp=3" in capsys.readouterr().err


def test_an_absurd_number_of_positions_is_refused_before_their_table_is_made(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, max_position_embeddings=1 << 26)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"max_position_embeddings = 67108864.*rotary table.*max_model_len"):
        load_model(tmp_path, load_format="dummy")
    assert time.monotonic() - began < 2
    load_model(tmp_path, load_format="dummy", max_positions=64)
