"""The tests' own reading of each format against those who made the formats; and what config.json may say of them."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from ts_modeling import ConfigError
from ts_modeling.quantization import PLAIN, Fp8Block, Fp8Channel, Mxfp4, Nvfp4, parse_quantization, scheme_of
from ts_modeling.testing import FORMATS, MIXED, meaning

DATA = Path(__file__).with_name("data") / "compressed_tensors.safetensors"


def recorded() -> dict[str, dict[str, Tensor]]:
    out: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in load_file(DATA).items():
        kind, _, suffix = name.partition("/")
        out[kind][suffix] = tensor
    return out


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.config["quant_method"] == "compressed-tensors"])
def test_meanings_are_those_of_the_compressed_tensors_library(name: str) -> None:
    stored = recorded()[name]
    read = stored.pop("read")
    # The library multiplies NVFP4 in bf16.
    torch.testing.assert_close(meaning(stored), read, rtol=2**-7 if name == "nvfp4" else 0, atol=0)


def test_meanings_of_blocks_are_those_of_transformers() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(256, (2, 6, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(110, 140, (2, 6, 3), dtype=torch.uint8, generator=generator)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(meaning({"blocks": blocks, "scales": scales}), theirs.transpose(1, 2))


def test_groups_names_and_ignore_lists_decide_together() -> None:
    quantization = parse_quantization(MIXED)
    kinds = {
        "model.layers.0.self_attn.o_proj": "plain",
        "model.layers.1.self_attn.o_proj": "FP8, a scale a row",
        "model.layers.1.mlp.experts.7.up_proj": "NVFP4",
        "model.layers.1.mlp.shared_experts.up_proj": "FP8, a scale a row",
        "model.layers.0.mlp.up_proj": "INT8, groups of 32 with zero points, read as bf16",
        "lm_head": "plain",
    }
    assert {name: scheme_of(quantization, name).label for name in kinds} == kinds


@pytest.mark.parametrize("outer", ["language_model.", "model.language_model."])
def test_names_of_a_multimodal_checkpoint_match_too(outer: str) -> None:
    name = f"{outer}{'' if outer.startswith('model') else 'model.'}layers.0.self_attn.o_proj"
    quantization = parse_quantization({**FORMATS["fp8-channel"].config, "ignore": [name]})
    assert scheme_of(quantization, "model.layers.0.self_attn.o_proj") == PLAIN
    assert scheme_of(quantization, "model.layers.1.self_attn.o_proj") != PLAIN


def test_lists_of_transformers_are_beginnings_and_ends_of_names() -> None:
    listed = ["model.layers.1", "mlp.gate", "model.layers.*.linear_attn.in_proj_b"]
    for field in ("modules_to_not_convert", "ignored_layers"):
        quantization = parse_quantization({**FORMATS["fp8-block"].config, field: listed})
        plain = ("lm_head", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.gate")
        plain += ("model.layers.7.linear_attn.in_proj_b",)
        assert {scheme_of(quantization, name) for name in plain} == {PLAIN}
        for name in ("model.layers.11.self_attn.q_proj", "model.layers.0.mlp.gate_proj"):
            assert scheme_of(quantization, name) == Fp8Block()


def test_lists_of_modelopt_are_globs() -> None:
    ignore = ["lm_head", "model.layers.0*", "*.mlp.gate", "model.layers.5.self_attn"]
    quantization = parse_quantization({**FORMATS["nvfp4-modelopt"].config, "ignore": ignore})
    for name in ("lm_head", "model.layers.0.x.q_proj", "model.layers.3.mlp.gate", "model.layers.5.self_attn.q_proj"):
        assert scheme_of(quantization, name) == PLAIN
    for name in ("model.layers.3.mlp.gate_proj", "model.layers.5.self_attn_b"):
        assert scheme_of(quantization, name) == Nvfp4(divides=False, beside=(".input_scale",))


def test_formats_of_whole_checkpoints() -> None:
    for name, scheme in {
        "fp8-block": Fp8Block(),
        "fp8-tensor": Fp8Channel(whole=True, beside=(".input_scale",)),
        "fp8-channel": Fp8Channel(),
        "mxfp4": Mxfp4(),
        "nvfp4": Nvfp4(divides=True, beside=(".input_global_scale",)),
    }.items():
        assert scheme_of(parse_quantization(FORMATS[name].config), "model.layers.0.mlp.up_proj") == scheme
    assert scheme_of(None, "model.layers.0.mlp.up_proj") == PLAIN
    per_matrix = {"quant_method": "fp8", "activation_scheme": "static"}
    assert scheme_of(parse_quantization(per_matrix), "x") == Fp8Channel(whole=True, beside=(".input_scale",))


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(json.dumps(FORMATS[name].config))
    target = config
    *parents, last = path.split(".")
    for key in parents:
        target = target[key]
    target[last] = value
    return config


WEIGHTS = "config_groups.group_0.weights"


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("int4-32", "quant_method", "awq"),
        ("int4-32", "quant_method", None),
        ("int4-32", "format", "marlin-24"),
        ("int4-32", "config_groups", {"a": 3}),
        ("int4-32", f"{WEIGHTS}.num_bits", 3),
        ("int4-32", f"{WEIGHTS}.strategy", "tensor"),
        ("int4-32", f"{WEIGHTS}.group_size", 0),
        ("int4-32", f"{WEIGHTS}.group_size", [32]),
        ("int4-32", f"{WEIGHTS}.symmetric", "yes"),
        ("int4-32", "config_groups.group_0.targets", ["Embedding"]),
        ("int4-32", "config_groups.group_0.targets", "Linear"),
        ("int4-32", "config_groups.group_0.targets", ["re:["]),
        ("int4-32", "config_groups.group_0.output_activations", {"num_bits": 8}),
        ("int4-32", "config_groups.group_0.input_activations", {"num_bits": 8}),
        ("int4-32", "sparsity_config", {"format": "dense"}),
        ("fp8-channel", f"{WEIGHTS}.strategy", "group"),
        ("fp8-channel", f"{WEIGHTS}.symmetric", False),
        ("fp8-block-ct", f"{WEIGHTS}.block_structure", [128]),
        ("fp8-block-ct", f"{WEIGHTS}.block_structure", [0, 128]),
        ("fp8-block-ct", f"{WEIGHTS}.block_structure", [1 << 40, 128]),
        ("nvfp4", f"{WEIGHTS}.group_size", 8),
        ("fp8-block", "weight_block_size", "128"),
        ("fp8-block", "fmt", "e5m2"),
        ("fp8-block", "activation_scheme", "sometimes"),
        ("fp8-block", "expert_dtype", "fp4"),
        ("fp8-block", "modules_to_not_convert", ["("]),
        ("nvfp4-modelopt", "quant_algo", "W4A8_AWQ"),
        ("nvfp4-modelopt", "kv_cache_scheme", {"num_bits": 8}),
        ("nvfp4-modelopt", "kv_cache_scheme", {"num_bits": 4, "type": "float"}),
        ("nvfp4-modelopt", "kv_cache_quant_algo", "NVFP4"),
        ("fp8-channel", "kv_cache_scheme", {"num_bits": 8, "type": "int"}),
        ("fp8-block", "kv_cache_scheme", "static"),
    ],
)
def test_what_is_not_understood_is_refused_by_field(name: str, path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: quantization_config") as caught:
        parse_quantization(changed(name, path, value))
    assert path.rsplit(".", 1)[-1] in str(caught.value)


@pytest.mark.parametrize("raw", [3, "fp8", [], True])
def test_no_object_is_no_quantization(raw: Any) -> None:
    with pytest.raises(ConfigError, match="expected an object"):
        parse_quantization(raw)
