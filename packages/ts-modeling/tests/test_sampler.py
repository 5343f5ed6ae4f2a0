"""Tokens drawn of logits that are cut over the vocabulary are those that are drawn of all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ts_kernels import sampling
from ts_modeling import ConfigError, LoadedSampler, SampledRows, load_model
from ts_modeling.cli import main
from ts_modeling.compiler import compile_plans
from ts_modeling.layers.candidates import GatheredLogits, VocabularySampler
from ts_modeling.placement import SAMPLES, Dim, Mesh, Spec, part_of
from ts_modeling.testing import write_checkpoint
from ts_modeling.testing.simulated import run_simulated
from ts_modeling.testing.worlds import run_world

WORKER = Path(__file__).with_name("sampler_worker.py")
VOCABULARY, COUNT, ROWS = 99, 8, 400


CUT = Spec(SAMPLES, Dim("vocabulary", VOCABULARY, uneven=True))


def sampler_of(mesh: Mesh) -> VocabularySampler | GatheredLogits:
    return VocabularySampler(CUT, COUNT, mesh, axis="attn_tp")


def gathering(mesh: Mesh) -> VocabularySampler | GatheredLogits:
    return GatheredLogits(CUT, axis="attn_tp")


def run_cut(
    make: Callable[[Mesh], VocabularySampler | GatheredLogits], logits: Tensor, ranks: int, **rows: Tensor
) -> list[Any]:
    meshes = [Mesh(ranks, {"attn_tp": ranks, "moe_tp": min(ranks, 2)}, rank) for rank in range(ranks)]
    models = [make(mesh) for mesh in meshes]
    plans = [compile_plans(m, mesh, inputs=m.inputs, gives=m.gives) for m, mesh in zip(models, meshes, strict=True)]
    parts = [logits.narrow(1, *part_of(mesh, mesh.atoms("attn_tp"), VOCABULARY)) for mesh in meshes]
    return run_simulated(plans, [SampledRows(part, **rows) for part in parts])


def drawn(logits: Tensor, ranks: int, **rows: Tensor) -> tuple[Tensor, Tensor]:
    results = run_cut(sampler_of, logits, ranks, **rows)
    for tokens, _ in results:
        assert torch.equal(tokens, results[0][0])
    tokens, logprobs = results[-1]
    return tokens, logprobs


def many_rows(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows with ties, infinities and NaN, greedy ones and such with every ``top_k`` up to the candidates."""
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randn(ROWS, VOCABULARY, generator=draw) * 3).mul(2).round().div(2)
    logits[::7, 3:60] = -torch.inf
    logits[::11, 5] = torch.nan
    logits[::13] = -torch.inf
    numbers = torch.arange(ROWS)
    return logits, {
        "temperature": torch.where(numbers % 4 == 0, 0.0, 0.3 + torch.rand(ROWS, generator=draw)),
        "top_k": (numbers % COUNT + 1).int(),
        "top_p": torch.where(numbers % 3 == 0, 1.0, torch.rand(ROWS, generator=draw)),
        "seeds": numbers * 977,
        "positions": numbers * 3,
    }


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_tokens_and_log_probabilities_are_those_of_all_logits(ranks: int) -> None:
    logits, rows = many_rows(ranks)
    tokens, logprobs = drawn(logits, ranks, **rows)
    order = ("temperature", "top_k", "top_p", "seeds", "positions")
    wanted = sampling.sample(logits, *(rows[name] for name in order))
    assert torch.equal(tokens, wanted)
    assert (tokens >= VOCABULARY // ranks).any() or ranks == 1
    torch.testing.assert_close(logprobs, sampling.logprobs(logits, wanted, 1).chosen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_logits_can_be_gathered(ranks: int) -> None:
    logits, rows = many_rows(ranks)
    for gathered in run_cut(gathering, logits, ranks, **rows):
        assert torch.equal(gathered.nan_to_num(nan=7.0), logits.nan_to_num(nan=7.0))


def test_rows_that_need_all_logits_are_refused() -> None:
    never: Any = None
    sampler = LoadedSampler(COUNT, 0, "", never, never)
    temperature, top_k = torch.tensor([0.0, 1.0]), torch.tensor([0, COUNT], dtype=torch.int32)
    assert sampler.takes(temperature, top_k)
    for wrong in (0, COUNT + 1):
        top_k[1] = wrong
        nothing: Any = torch.zeros(2)
        with pytest.raises(ConfigError, match=r"neither greedy nor has a top_k from 1 to 8, .*; load with more"):
            sampler.draw(SampledRows(nothing, temperature, top_k, nothing, nothing, nothing))


def test_a_number_of_candidates_is_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"candidates = -1; give a whole number, 0 for logits that are gathered"):
        load_model(tmp_path, candidates=-1)


def test_explain_tells_what_the_draw_sends(capsys: pytest.CaptureFixture[str]) -> None:
    """3/4 of four times 64 values and tokens and a sum, in the place of 3/4 of 163,840 logits."""
    command = ["explain", "--model", "kimi-k2.5", "--mesh", "attn_tp=4,moe_tp=4"]
    assert main([*command, "--candidates", "64"]) == 0
    text = capsys.readouterr().out
    assert f"gather candidates] over attn_tp|dense_tp|moe_tp (4 ranks): {3 * 4 * 129:,} bytes a sample" in text
    assert "gather vocabulary" not in text
    assert main(command) == 0
    assert f"gather vocabulary] over attn_tp|dense_tp|moe_tp (4 ranks): {3 * 163840:,} bytes" in capsys.readouterr().out


def check(tmp_path: Path, world: int, meshes: list[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(checkpoint, moe_intermediate_size=128, vocab_size=323)
    ((alone,),) = ([np.load(f) for f in files] for files in run_world(WORKER, checkpoint, 1, [""], tmp_path / "one"))
    assert (alone[:, 1:3, 0] >= 160).any(), "some tokens are of the other half"
    assert (alone[..., 2] != alone[..., 0]).any(), "some are none of the candidates"
    for files in run_world(WORKER, checkpoint, world, meshes, tmp_path / "many"):
        for rank in map(np.load, files):
            here = ~np.isnan(rank)
            for tokens in (0, 2):
                np.testing.assert_array_equal(rank[..., tokens][here[..., 0]], alone[..., tokens][here[..., 0]])
            np.testing.assert_allclose(rank[here], alone[here], rtol=1e-4, atol=1e-4)


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    check(tmp_path, 2, ["attn_tp=2,moe_tp=2", "attn_dp=2,moe_ep=2"])


@pytest.mark.nightly
def test_four_processes_draw_what_one_draws(tmp_path: Path) -> None:
    check(tmp_path, 4, ["attn_tp=4,moe_tp=4", "attn_dp=2,attn_tp=2,moe_ep=4"])
