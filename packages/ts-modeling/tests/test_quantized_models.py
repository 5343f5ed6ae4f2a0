"""Whole models in every weight format against transformers on the dequantized weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from ts_modeling import LoadedModel, load_model
from ts_modeling.testing import FORMATS, Sequences, oracle, oracle_logits, write_checkpoint

EVERY = ["mixed", *FORMATS]
FAST = ("mixed", "int4-zeros-32", "int8-32", "fp8-block", "nvfp4-modelopt")
SIZES = {"hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128, "q_lora_rank": 128}
SIZES |= {"kv_lora_rank": 128, "v_head_dim": 32, "num_hidden_layers": 2, "n_routed_experts": 4}
"""What blocks and groups of 128 divide; heads are 4 of 32, and the projection of latents ends in a block of 8 rows."""
AS_BF16 = {
    "int8-zeros-32": ("_proj.weight", "kv_a_proj"),
    "mixed": ("kv_b_proj", "layers.0.mlp."),
}
"""What becomes bf16 where that is more than ``kv_b_proj``; the kernels read all else as stored."""
PROMPT = torch.randint(320, (21,), generator=torch.Generator().manual_seed(7)).tolist()


def logits(model: LoadedModel) -> Tensor:
    rows = Sequences(1, len(PROMPT))
    cache = model.new_cache(rows.num_pages, rows.page_size)
    first = model.forward(rows.batch(prefills=[(0, PROMPT[:16])]), cache)
    return torch.cat([first, *(model.forward(rows.batch(decodes=[(0, [t])]), cache) for t in PROMPT[16:])])


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.nightly) for n in EVERY])
def test_a_model_in_every_format_equals_its_dequantized_form(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quantization=name, **SIZES)
    expected = oracle_logits(oracle(tmp_path, bf16=AS_BF16.get(name, ("kv_b_proj",))), PROMPT)
    ours = logits(load_model(tmp_path, dtype="float32"))
    difference = float((ours - expected).abs().max() / expected.abs().max())
    assert difference < 1e-4, difference


@pytest.mark.parametrize("name", EVERY)
def test_dummies_of_every_format_give_finite_logits(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quantization=name, **SIZES)
    (tmp_path / "model.safetensors").unlink()
    out = logits(load_model(tmp_path, load_format="dummy"))
    assert torch.isfinite(out).all()
    assert 0.1 < float(out.std()) < 10
