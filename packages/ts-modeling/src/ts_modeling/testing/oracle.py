"""transformers' DeepSeek V3 on a checkpoint folder, dequantized to float32."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import dequantized


def oracle(folder: Path, *, bf16: Sequence[str] = ()) -> Any:
    """``DeepseekV3ForCausalLM`` with the weights of ``folder``, strictly loaded.

    Weights whose names contain one of ``bf16`` are rounded to it first, as what no kernel reads quantized is.
    """
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    raw = json.loads((folder / "config.json").read_text())
    text = dict(raw.get("text_config", raw))
    text.pop("quantization_config", None)
    config: Any = DeepseekV3Config(**{**text, "attn_implementation": "eager"})
    model: Any = DeepseekV3ForCausalLM(config)
    model = model.float().eval()
    extra = f"model.layers.{text['num_hidden_layers']}."
    state = {name: t for name, t in dequantized(folder).items() if not name.startswith(extra)}
    state |= {n: t.bfloat16().float() for n, t in state.items() if any(part in n for part in bf16)}
    for name in [n for n in model.state_dict() if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        stem, _, stack = name.rpartition(".")
        parts = ("gate_proj", "up_proj") if stack == "gate_up_proj" else ("down_proj",)
        experts = range(text["n_routed_experts"])
        state[name] = torch.stack([torch.cat([state.pop(f"{stem}.{e}.{p}.weight") for p in parts]) for e in experts])
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def oracle_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    """Logits of every position of one sequence, fp32 [T, V]."""
    logits: Tensor = model(torch.tensor(tokens)[None]).logits[0]
    return logits


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """That two float32 tensors of one shape differ by less than ``tolerance`` of the largest of ``theirs``."""
    assert (ours.dtype, ours.shape) == (torch.float32, theirs.shape)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    assert difference < tolerance, difference
