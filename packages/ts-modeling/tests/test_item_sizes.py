"""What travels is counted in its own type: logits and sums of squares are float32 whatever the activations are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ts_modeling import Mesh
from ts_modeling.checkpoint import fill_with_dummies
from ts_modeling.cli import main
from ts_modeling.layers import Leaf
from ts_modeling.registry import build, config_from, kv_spec
from ts_modeling.testing import MODELS, Sequences, text_config, tiny_config

CPU = torch.device("cpu")
TYPES = [("bfloat16", 2), ("float32", 4)]


def explained(capsys: pytest.CaptureFixture[str], folder: Path, raw: dict[str, Any], *arguments: str) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(raw))
    assert main(["explain", "--model", str(path), *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "size"), TYPES)
def test_gathered_logits_are_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, size: int) -> None:
    """Each of two ranks sends its half of the vocabulary; sums of the hidden size are activations."""
    raw = tiny_config("llama")
    text = explained(capsys, tmp_path, raw, "--mesh", "attn_tp=2", "--dtype", dtype)
    logits, hidden = raw["vocab_size"] // 2 * 4, raw["hidden_size"] * size
    assert f"(2 ranks): {logits:,} bytes a sample, 4 an element; head -> output\n" in text
    assert f"(2 ranks): {hidden:,} bytes a token; attention.o -> post_norm\n" in text
    assert f" and {logits + hidden:,} bytes a sample of the whole batch, {size} an element of an activation\n" in text


@pytest.mark.parametrize(("dtype", "size"), TYPES)
def test_sums_of_squares_are_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, size: int) -> None:
    """Two numbers a token, which each of two ranks sends by halves, twice; beside the embedding's and layers' sums."""
    raw = tiny_config("minimax_m2")
    text = explained(capsys, tmp_path, raw, "--mesh", "attn_tp=2,moe_ep=2", "--dtype", dtype)
    assert "(2 ranks): 8 bytes a token, 4 an element; attention.sums -> attention.norm\n" in text
    layers = raw["num_hidden_layers"]
    assert f"each rank sends {2 * layers * raw['hidden_size'] * size + layers * 8:,} bytes a token" in text


def test_experts_are_told_of_where_there_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = ("--mesh", "attn_dp=2,moe_ep=2")
    assert "experts" not in explained(capsys, tmp_path, tiny_config("llama"), *mesh)
    assert "plans: from 0 tokens: tokens whole between blocks, experts by gathering; from " in explained(
        capsys, tmp_path, tiny_config("qwen3_moe"), *mesh
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("model", ["kimi", *MODELS])
def test_every_module_gives_the_type_that_it_says(model: str, dtype: torch.dtype) -> None:
    config = config_from(text_config(int4=False) if model == "kimi" else tiny_config(model))
    built = build(config, Mesh.single(), dtype=dtype, device=CPU, positions=16)
    fill_with_dummies(built.model, device=CPU)
    wrong: list[str] = []

    def look(leaf: nn.Module, _: Any, given: Any) -> None:
        assert isinstance(leaf, Leaf)
        results = given if isinstance(given, tuple) else (given,)
        for result, spec in zip(results, leaf.boundary.gives, strict=True):
            told = spec.itemsize or dtype.itemsize
            if result.itemsize != told:
                wrong.append(f"{type(leaf).__name__} says {told} bytes, gives {result.dtype}")

    leaves = [m for m in built.model.modules() if isinstance(m, Leaf)]
    hooks = [leaf.register_forward_hook(look) for leaf in leaves]
    rows = Sequences(1, 8)
    cache = kv_spec(config, Mesh.single(), dtype=dtype).new_cache(
        num_pages=rows.num_pages, page_size=rows.page_size, num_states=rows.num_states, device=CPU
    )
    with torch.no_grad():
        logits: Tensor = built.model(rows.batch(prefills=[(0, [1, 2, 3])]), cache)
    assert len(hooks) > 10
    assert logits.dtype == torch.float32
    assert not wrong
