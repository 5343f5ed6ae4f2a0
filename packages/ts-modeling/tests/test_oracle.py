"""The model against transformers' implementation, on tiny random checkpoints with awkward shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_modeling import LoadedModel, load_model
from ts_modeling.testing import (
    assert_close,
    oracle,
    oracle_logits,
    run_chunked,
    run_decodes,
    run_mixed,
    run_whole,
    write_checkpoint,
)

NO_YARN: dict[str, Any] = {"rope_scaling": None}
DEEP_YARN = {
    "type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "int4": {},
    "bf16": {"int4": False},
    "three_heads": {"num_attention_heads": 3, "qk_nope_head_dim": 20, "v_head_dim": 12, "kv_lora_rank": 40},
    "no_query_latent": {"q_lora_rank": None, "nested": False},
    "groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "norm_topk_prob": False},
    "plain_rope": {**NO_YARN, "rms_norm_eps": 1e-3},
    "deep_yarn": {"rope_scaling": DEEP_YARN, "max_position_embeddings": 512},
    "two_shared": {"n_shared_experts": 2, "first_k_dense_replace": 2, "files": 3},
    "all_dense": {"first_k_dense_replace": 3, "int4": False},
}
VOCABULARY = 320
PROMPT = torch.randint(VOCABULARY, (45,), generator=torch.Generator().manual_seed(7)).tolist()
OTHER = torch.randint(VOCABULARY, (31,), generator=torch.Generator().manual_seed(8)).tolist()


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, **CONFIGS[request.param])
    return load_model(folder, dtype="float32"), oracle(folder)


@pytest.mark.parametrize("run", [run_whole, run_chunked, run_decodes])
def test_logits_equal_transformers(
    pair: tuple[LoadedModel, Any], run: Callable[[LoadedModel, list[int]], Tensor]
) -> None:
    model, reference = pair
    assert_close(run(model, PROMPT), oracle_logits(reference, PROMPT))


def test_mixed_batches_equal_transformers(pair: tuple[LoadedModel, Any]) -> None:
    """Two decodes beside two prefill chunks, pages shuffled, cache poisoned."""
    model, reference = pair
    expected = [oracle_logits(reference, prompt) for prompt in (PROMPT, OTHER)]
    for row, position, logits in run_mixed(model, PROMPT, OTHER):
        assert_close(logits, expected[row % 2][position])


def test_automatic_types_stay_close(tmp_path: Path) -> None:
    """bf16 cache: near transformers, and not equal to it."""
    write_checkpoint(tmp_path)
    model = load_model(tmp_path)
    assert (model.dtype, model.kv_dtype) == (torch.float32, torch.bfloat16)
    expected = oracle_logits(oracle(tmp_path), PROMPT)
    ours = run_chunked(model, PROMPT)
    assert_close(ours, expected, 3e-2)
    assert not torch.equal(ours, expected)


def test_bfloat16_activations_stay_close(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    expected = oracle_logits(oracle(tmp_path), PROMPT)
    ours = run_whole(model, PROMPT)
    assert ours.dtype == torch.float32
    agreement = torch.nn.functional.cosine_similarity(ours, expected, dim=-1)
    # A close race between two experts may end otherwise in bf16, so a few rows may differ more.
    assert float(agreement.quantile(0.1)) > 0.99, agreement


def test_dummy_weights_give_finite_logits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    logits = run_whole(load_model(tmp_path, load_format="dummy"), PROMPT)
    assert torch.isfinite(logits).all()
    assert 0.1 < float(logits.std()) < 10
