"""Random weights under the real names, INT4 packed as in the real checkpoint, and back again."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .formats import FORMATS, meaning

TINY: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "intermediate_size": 96,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "hidden_act": "silu",
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "max_position_embeddings": 256,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}
"""A text configuration small enough for a test and odd enough to notice mixed-up dimensions."""

INT4: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "type": "int",
                "num_bits": 4,
                "strategy": "group",
                "group_size": 32,
                "symmetric": True,
                "dynamic": False,
            },
        }
    },
}
"""Kimi K2.5's ``quantization_config``."""


MIXED: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "ignore": ["lm_head", "model.layers.0.self_attn.o_proj"],
    "config_groups": {
        name: {**next(iter(FORMATS[kind].config["config_groups"].values())), "format": FORMATS[kind].config["format"]}
        | {"targets": targets}
        for name, kind, targets in (
            ("rest", "fp8-channel", ["Linear"]),
            ("experts", "nvfp4", ["re:.*experts\\.[0-9]+\\..*"]),
            ("dense", "int8-zeros-32", [f"model.layers.0.mlp.{m}_proj" for m in ("gate", "up", "down")]),
        )
    },
}
"""Three formats and an ignore list in one checkpoint."""


def text_config(*, int4: bool = True, quantization: str = "", **changes: Any) -> dict[str, Any]:
    """``TINY`` with ``changes``; heads of keys follow ``num_attention_heads``.

    ``quantization`` is ``mixed`` or one of ``FORMATS``, for all Linear modules but the head.
    """
    config = {**TINY, **changes}
    config["num_key_value_heads"] = config["num_attention_heads"]
    if quantization:
        ignore = {} if quantization == "fp8-block" else {"ignore": ["lm_head"]}
        chosen = MIXED if quantization == "mixed" else {**FORMATS[quantization].config, **ignore}
        return {**config, "quantization_config": chosen}
    return {**config, "quantization_config": INT4} if int4 else config


def write_checkpoint(
    folder: Path,
    *,
    int4: bool = True,
    quantization: str = "",
    nested: bool = True,
    files: int = 1,
    seed: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """Write config.json and random weights to ``folder``; ``files`` above 1 makes that many with an index.

    ``quantization`` as in ``text_config``, in place of ``int4``. ``changes`` are fields of the text configuration,
    which is returned.
    """
    text = text_config(int4=int4, quantization=quantization, **changes)
    outer = {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25", "text_config": text}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(outer if nested else text))
    prefix = "language_model." if nested else ""
    save_tensors(folder, {prefix + name: t for name, t in random_tensors(text, seed=seed).items()}, files=files)
    return text


def save_tensors(folder: Path, tensors: dict[str, Tensor], *, files: int = 1) -> None:
    """Write ``tensors`` as one file, or as ``files`` files and an index."""
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = [f"model-{i + 1:05d}-of-{files:06d}.safetensors" for i in range(files)]
    weight_map = {name: names[i % files] for i, name in enumerate(tensors)}
    for file_name in names:
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file_name}, folder / file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def random_tensors(text: dict[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of a text model under the checkpoint's names, without ``language_model.``."""
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, Tensor] = {}
    for name, shape in _shapes(text).items():
        tensor = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            out[name] = (1 + 0.1 * tensor).bfloat16()
        elif name.endswith("bias"):
            out[name] = 0.1 * tensor
        else:
            out |= _linear(text.get("quantization_config"), name, tensor * shape[-1] ** -0.5, generator)
    return out


def _linear(quantization: Any, name: str, weight: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """A matrix under its name, or its stored form."""
    stem = name.removesuffix(".weight")
    if quantization == INT4 and ".experts." in name:
        packed, scale = pack_int4(weight)
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        return {f"{stem}.weight_packed": packed, f"{stem}.weight_scale": scale, f"{stem}.weight_shape": shape}
    kind = _kind(quantization, stem)
    if kind is None:
        return {name: weight.bfloat16()}
    rows, columns = weight.shape
    return {f"{stem}.{suffix}": t for suffix, t in FORMATS[kind].make(rows, columns, generator).items()}


def _kind(quantization: Any, stem: str) -> str | None:
    """Which of ``FORMATS`` a matrix of a test checkpoint has."""
    linear = (stem.endswith("_proj") and "eh_proj" not in stem) or "kv_a_proj" in stem
    if quantization in (None, INT4) or not linear:
        return None
    if quantization == MIXED:
        if stem == "model.layers.0.self_attn.o_proj":
            return None
        return "nvfp4" if ".experts." in stem else "int8-zeros-32" if ".0.mlp." in stem else "fp8-channel"
    return next(name for name, f in FORMATS.items() if f.config.items() <= quantization.items())


def pack_int4(weight: Tensor, group: int = 32) -> tuple[Tensor, Tensor]:
    """Round [out, in] to symmetric INT4: packed int32 [out, in/8] and bf16 scales [out, in/group]."""
    rows, columns = weight.shape
    grouped = weight.view(rows, columns // group, group)
    scale = (grouped.abs().amax(-1) / 7.5).clamp_min(1e-8).bfloat16()
    values = (grouped / scale.float()[..., None]).round().clamp(-8, 7).to(torch.int32).view(rows, columns // 8, 8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    words = ((values + 8).to(torch.int64) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32), scale


def unpack_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """Invert ``pack_int4`` to float32 [out, in]."""
    rows = packed.shape[0]
    values = (packed[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15
    return ((values.view(rows, scale.shape[1], -1) - 8).float() * scale.float()[..., None]).view(rows, -1)


def dequantized(folder: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint folder in float32, under the text model's names (one matrix an expert)."""
    raw: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw.update({name.removeprefix("language_model."): t for name, t in load_file(path).items()})
    out: dict[str, Tensor] = {}
    matrices: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in raw.items():
        stem, _, suffix = name.rpartition(".")
        if suffix.startswith(("weight", "input")):
            matrices[stem][suffix] = tensor
        else:
            out[name] = tensor.float()
    return out | {f"{stem}.weight": meaning(stored) for stem, stored in matrices.items()}


def _shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, vocabulary = text["hidden_size"], text["vocab_size"]
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    layers = text["num_hidden_layers"]
    for layer in range(layers):
        out.update(_layer_shapes(text, layer))
    out |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(layers, layers + (text["num_nextn_predict_layers"] or 0)):
        name = f"model.layers.{layer}"
        out |= {f"{name}.{norm}.weight": (hidden,) for norm in ("enorm", "hnorm", "shared_head.norm")}
        out |= {f"{name}.eh_proj.weight": (hidden, 2 * hidden), **_layer_shapes(text, layer)}
    return out


def _layer_shapes(text: dict[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    name, hidden = f"model.layers.{layer}", text["hidden_size"]
    out: dict[str, tuple[int, ...]] = {f"{name}.input_layernorm.weight": (hidden,)}
    out.update(_attention_shapes(text, f"{name}.self_attn"))
    out[f"{name}.post_attention_layernorm.weight"] = (hidden,)
    if layer < text["first_k_dense_replace"]:
        return out | _mlp_shapes(f"{name}.mlp", hidden, text["intermediate_size"])
    inner = text["moe_intermediate_size"]
    out[f"{name}.mlp.gate.weight"] = (text["n_routed_experts"], hidden)
    out[f"{name}.mlp.gate.e_score_correction_bias"] = (text["n_routed_experts"],)
    out.update(_mlp_shapes(f"{name}.mlp.shared_experts", hidden, inner * text["n_shared_experts"]))
    for expert in range(text["n_routed_experts"]):
        out.update(_mlp_shapes(f"{name}.mlp.experts.{expert}", hidden, inner))
    return out


def _attention_shapes(text: dict[str, Any], name: str) -> dict[str, tuple[int, ...]]:
    hidden, heads, latent, rank = (
        text[k] for k in ("hidden_size", "num_attention_heads", "kv_lora_rank", "q_lora_rank")
    )
    nope, rope, value = (text[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    queries: dict[str, tuple[int, ...]] = {f"{name}.q_proj.weight": (heads * (nope + rope), hidden)}
    if rank:
        queries = {
            f"{name}.q_a_proj.weight": (rank, hidden),
            f"{name}.q_a_layernorm.weight": (rank,),
            f"{name}.q_b_proj.weight": (heads * (nope + rope), rank),
        }
    return {
        **queries,
        f"{name}.kv_a_proj_with_mqa.weight": (latent + rope, hidden),
        f"{name}.kv_a_layernorm.weight": (latent,),
        f"{name}.kv_b_proj.weight": (heads * (nope + value), latent),
        f"{name}.o_proj.weight": (hidden, heads * value),
    }


def _mlp_shapes(name: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gate_proj.weight": (inner, hidden),
        f"{name}.up_proj.weight": (inner, hidden),
        f"{name}.down_proj.weight": (hidden, inner),
    }
