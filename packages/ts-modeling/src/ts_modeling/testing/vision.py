"""Tiny checkpoints with a vision tower, under the published names, and transformers' Kimi K2.5 on them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .checkpoints import save_tensors, write_checkpoint

TINY_VISION: dict[str, Any] = {
    "patch_size": 14,
    "init_pos_emb_height": 6,
    "init_pos_emb_width": 6,
    "init_pos_emb_time": 4,
    "pos_emb_type": "divided_fixed",
    "vt_num_attention_heads": 3,
    "vt_num_hidden_layers": 2,
    "vt_hidden_size": 36,
    "vt_intermediate_size": 52,
    "merge_kernel_size": [2, 2],
    "video_attn_type": "spatial_temporal",
    "merge_type": "sd2_tpool",
    "mm_projector_type": "patchmerger",
    "mm_hidden_size": 36,
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-5,
    "text_hidden_size": 64,
}
"""A ``vision_config`` small enough for a test, with the published fields."""
MEDIA_TOKEN = 300
"""Stands for images in the tiny vocabulary."""


def write_vision_checkpoint(
    folder: Path, *, vision: dict[str, Any] | None = None, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """As ``write_checkpoint`` in one file, with a tower of ``TINY_VISION`` and the changes ``vision``, returned."""
    text = write_checkpoint(folder, seed=seed, **changes)
    config = {**TINY_VISION, **(vision or {})}
    config["mm_hidden_size"] = config["vt_hidden_size"]
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"vision_config": config, "media_placeholder_token_id": MEDIA_TOKEN}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = load_file(folder / "model.safetensors")
    save_tensors(folder, tensors | vision_tensors(config, text["hidden_size"], seed=seed))
    return config


def vision_tensors(config: dict[str, Any], text_hidden: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Random bf16 tensors of the tower and the projector, biases and gains included."""
    generator = torch.Generator().manual_seed(seed + 1)
    out: dict[str, Tensor] = {}
    for name, shape in _shapes(config, text_hidden).items():
        tensor = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensor = 1 + 0.2 * tensor
        elif name.endswith("bias"):
            tensor = 0.2 * tensor
        elif not name.endswith("pos_emb.weight"):
            tensor = tensor * (tensor[0].numel() ** -0.5)
        out[name] = tensor.bfloat16()
    return out


def vision_oracle(folder: Path) -> Any:
    """``Kimi_K25ForConditionalGeneration`` in float32, loaded from ``folder`` by transformers' own mapping of names.

    Routed experts must not be quantized. Fails if any tensor is missing, unknown or misshapen.
    """
    from transformers import DeepseekV3Config, Kimi_K25Config, Kimi_K25ForConditionalGeneration
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25VisionConfig

    raw = json.loads((folder / "config.json").read_text())
    v = raw["vision_config"]
    vision = Kimi_K25VisionConfig(
        patch_size=v["patch_size"],
        pos_emb_height=v["init_pos_emb_height"],
        pos_emb_width=v["init_pos_emb_width"],
        pos_emb_time=v["init_pos_emb_time"],
        num_attention_heads=v["vt_num_attention_heads"],
        num_hidden_layers=v["vt_num_hidden_layers"],
        hidden_size=v["vt_hidden_size"],
        intermediate_size=v["vt_intermediate_size"],
        merge_kernel_size=v["merge_kernel_size"],
    )
    config: Any = Kimi_K25Config(
        text_config=DeepseekV3Config(**raw["text_config"]),
        vision_config=vision,
        projection_hidden_size=v["mm_hidden_size"],
        projection_layer_norm_eps=v["projector_ln_eps"],
        image_token_id=raw["media_placeholder_token_id"],
        tie_word_embeddings=False,
    )
    loaded: Any = Kimi_K25ForConditionalGeneration.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model, info = loaded
    problems = {kind: names for kind, names in info.items() if names}
    assert not problems, problems
    return model.eval()


def _shapes(config: dict[str, Any], text_hidden: int) -> dict[str, tuple[int, ...]]:
    hidden, inner, patch = (config[name] for name in ("vt_hidden_size", "vt_intermediate_size", "patch_size"))
    merged = hidden * config["merge_kernel_size"][0] * config["merge_kernel_size"][1]
    grid = (config["init_pos_emb_height"], config["init_pos_emb_width"])
    matrices: dict[str, tuple[int, ...]] = {"vision_tower.patch_embed.proj": (hidden, 3, patch, patch)}
    for i in range(config["vt_num_hidden_layers"]):
        name = f"vision_tower.encoder.blocks.{i}"
        matrices |= {f"{name}.norm0": (hidden,), f"{name}.norm1": (hidden,)}
        matrices |= {f"{name}.wqkv": (3 * hidden, hidden), f"{name}.wo": (hidden, hidden)}
        matrices |= {f"{name}.mlp.fc0": (inner, hidden), f"{name}.mlp.fc1": (hidden, inner)}
    matrices |= {"vision_tower.encoder.final_layernorm": (hidden,), "mm_projector.pre_norm": (hidden,)}
    matrices |= {"mm_projector.proj.0": (merged, merged), "mm_projector.proj.2": (text_hidden, merged)}
    out: dict[str, tuple[int, ...]] = {"vision_tower.patch_embed.pos_emb.weight": (*grid, hidden)}
    for name, shape in matrices.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return out
