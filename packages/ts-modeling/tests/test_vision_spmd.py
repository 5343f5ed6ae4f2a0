"""The tower and the text model behind it on N processes (gloo) give what one gives."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts_modeling.testing import write_vision_checkpoint

WORKER = Path(__file__).with_name("vision_worker.py")
VISION: dict[str, Any] = {"vt_num_attention_heads": 4, "vt_hidden_size": 48}
TWO = ["attn_tp=2,moe_tp=2", "attn_tp=2,moe_ep=2/cut", "attn_dp=2,moe_ep=2", "attn_dp=2,dense_tp=2"]
FOUR = ["attn_tp=4,moe_tp=4", "attn_dp=2,attn_tp=2,dense_tp=4,moe_ep=4", "attn_dp=2,attn_tp=2,dense_tp=4/cut"]


def run_world(checkpoint: Path, world: int, meshes: list[str], output: Path) -> list[np.ndarray]:
    """[ranks, sequences, vocabulary] of each mesh."""
    output.mkdir()
    commands = [
        [
            sys.executable,
            str(WORKER),
            str(checkpoint),
            str(output / "store"),
            str(rank),
            str(world),
            str(output),
            *meshes,
        ]
        for rank in range(world)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    return [np.stack([np.load(output / f"{n}-{rank}.npy") for rank in range(world)]) for n in range(len(meshes))]


def check(tmp_path: Path, world: int, meshes: list[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_vision_checkpoint(checkpoint, vision=VISION, moe_intermediate_size=128)
    ((one,),) = run_world(checkpoint, 1, [""], tmp_path / "one")
    assert np.isfinite(one).all()
    for text, ranks in zip(meshes, run_world(checkpoint, world, meshes, tmp_path / "many"), strict=True):
        known = np.isfinite(ranks)
        assert known.any(axis=0).all(), text
        difference = np.abs(np.where(known, ranks - one, 0)).max() / np.abs(one).max()
        assert difference < 1e-5, f"{text}: {difference}"


def test_two_processes_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 2, TWO)


@pytest.mark.nightly
def test_four_processes_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 4, FOUR)
