"""The tower and the text model behind it on N processes (gloo) give what one gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts_modeling.testing import write_vision_checkpoint
from ts_modeling.testing.worlds import run_world

WORKER = Path(__file__).with_name("vision_worker.py")
VISION: dict[str, Any] = {"vt_num_attention_heads": 4, "vt_hidden_size": 48}
TWO = ["attn_tp=2,moe_tp=2", "attn_tp=2,moe_ep=2/cut", "attn_dp=2,moe_ep=2", "attn_dp=2,dense_tp=2"]
FOUR = ["attn_tp=4,moe_tp=4", "attn_dp=2,attn_tp=2,dense_tp=4,moe_ep=4", "attn_dp=2,attn_tp=2,dense_tp=4/cut"]


def logits_of(checkpoint: Path, world: int, meshes: list[str], output: Path) -> list[np.ndarray]:
    """Of every mesh [ranks, ...]; a rank's rows that it does not have are NaN."""
    files = run_world(WORKER, checkpoint, world, meshes, output)
    return [np.stack([np.load(file) for file in ranks]) for ranks in files]


def check(tmp_path: Path, world: int, meshes: list[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_vision_checkpoint(checkpoint, vision=VISION, moe_intermediate_size=128)
    ((one,),) = logits_of(checkpoint, 1, [""], tmp_path / "one")
    assert np.isfinite(one).all()
    for text, ranks in zip(meshes, logits_of(checkpoint, world, meshes, tmp_path / "many"), strict=True):
        known = np.isfinite(ranks)
        assert known.any(axis=0).all(), text
        difference = np.abs(np.where(known, ranks - one, 0)).max() / np.abs(one).max()
        assert difference < 1e-5, f"{text}: {difference}"


def test_two_processes_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 2, TWO)


@pytest.mark.nightly
def test_four_processes_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 4, FOUR)
