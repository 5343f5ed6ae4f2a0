"""Quantized forms of the tiny checkpoints, and transformers' models with what their tensors mean."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .formats import FORMATS, meaning
from .tiny import write_tiny


def quantize_tiny(
    folder: Path, raw: dict[str, Any], format: str, modules: str, *, seed: int = 0, **lists: list[str]
) -> Any:
    """Write ``raw`` with the Linear modules that match ``modules`` in ``format``; gives transformers' model of it.

    ``lists`` join the format's ``quantization_config``, such as those of modules left alone. Numbers are drawn anew;
    transformers loads the file's tensors, dequantized, by their names.
    """
    write_tiny(folder, raw, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    stored = load_file(folder / "model.safetensors")
    plain, out = dict(stored), dict[str, Tensor]()
    for name, tensor in stored.items():
        stem = name.removesuffix(".weight")
        if not re.search(modules, stem):
            out[name] = tensor
            continue
        rows, columns = tensor.shape
        made = FORMATS[format].make(rows, columns, generator)
        plain[name] = meaning(made)
        out |= {f"{stem}.{suffix}": value for suffix, value in made.items()}
    return _finish(folder, raw, out, plain, {**FORMATS[format].config, **lists})


def mxfp4_experts(folder: Path, raw: dict[str, Any], *, seed: int = 0) -> Any:
    """GPT-OSS with its experts in MXFP4, as it is published."""
    write_tiny(folder, raw, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    stored = load_file(folder / "model.safetensors")
    plain, out = dict(stored), dict(stored)
    for name in [name for name in stored if re.search(r"experts\.(gate_up|down)_proj$", name)]:
        experts, inputs, outputs = out.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(120, 124, blocks.shape[:-1], dtype=torch.uint8, generator=generator)
        out |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        plain[name] = meaning({"blocks": blocks, "scales": scales}).transpose(1, 2).contiguous()
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return _finish(folder, raw, out, plain, {"quant_method": "mxfp4", "modules_to_not_convert": left})


def _finish(
    folder: Path, raw: dict[str, Any], out: dict[str, Tensor], plain: dict[str, Tensor], config: dict[str, Any]
) -> Any:
    from transformers import AutoModelForCausalLM

    save_file(out, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**raw, "quantization_config": config}))
    beside = folder / "plain"
    beside.mkdir()
    save_file({name: t.float() for name, t in plain.items()}, beside / "model.safetensors", {"format": "pt"})
    (beside / "config.json").write_text(json.dumps(raw))
    auto: Any = AutoModelForCausalLM
    model, info = auto.from_pretrained(
        beside, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()
