"""What goes wrong between two processes (gloo) is an error that says what, on the rank that can know, and in time.

All jobs that both ranks survive run in one launch.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ts_modeling.testing import tiny_config, write_tiny

WORKER = str(Path(__file__).with_name("faults_worker.py"))
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "short": ("llama", {"num_hidden_layers": 2}),
    "turned": ("llama", {"rms_norm_eps": 1e-3}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 8}),
}
Ends = list[tuple[int, list[str], str]]
"""Exit status, printed lines and errors of each rank."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*jobs: str) -> Ends:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, "77", *jobs],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(p.returncode, out.splitlines(), err) for p, (out, err) in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, (model, changes) in MODELS.items():
        write_tiny(root / name, tiny_config(model, **changes))
    return root


@pytest.fixture(scope="module")
def ends(folder: Path) -> Ends:
    llama = folder / "llama"
    return run(f"sizes={folder / 'qwen3_moe'}", f"ids={llama}", f"differ={folder}", f"patience={llama}")


def lines_of(job: str, ends: Ends) -> list[list[str]]:
    """What each rank printed for one job."""
    assert [status for status, _, _ in ends] == [0, 0], "\n".join(err for _, _, err in ends)
    return [[line.removeprefix(f"{job}: ") for line in lines if line.startswith(job)] for _, lines, _ in ends]


def test_a_rank_whose_sizes_are_not_its_batch_refuses_them(ends: Ends) -> None:
    """Before anything is sent, so that the ranks stay in step."""
    first, second = lines_of("sizes", ends)
    assert first[0].startswith("MeshError: batch.dp_sizes[0] = 4, but this rank is of attn_dp group 0")
    assert second[0].startswith("MeshError: batch.dp_sizes[1] = 1, but this rank is of attn_dp group 1")
    for lines in (first, second):
        assert lines[1].startswith("MeshError: batch.dp_sizes tells the tokens of 3 groups, the mesh has attn_dp=2")
        assert lines[2].startswith("MeshError: batch.dp_sizes[0] = 3.0; give a whole number")
        assert lines[3].startswith("MeshError: batch.dp_sizes[1] = -2; give a whole number")
        assert lines[4:] == ["fine"]


def test_an_id_outside_of_a_cut_vocabulary_is_refused_on_every_rank(ends: Ends) -> None:
    for lines in lines_of("ids", ends):
        assert lines[0] == "ContractError: gemm.gather_rows: ids must be in [0, 320), got values from 1 to 32000"
        assert lines[1] == "ContractError: gemm.gather_rows: ids must be in [0, 320), got values from -7 to 2"
        assert lines[2:] == ["fine"]


def test_ranks_that_hold_different_things_are_told_which_before_weights_are_read(ends: Ends) -> None:
    whats = ("mesh", "configuration", "model", "configuration", "configuration", "compiled plan")
    for lines in lines_of("differ", ends):
        for line, what in zip(lines[:-1], whats, strict=True):
            assert line.startswith(f"CommunicationError: the {what} of rank 1 is not that of rank 0; "), line
        for line, *both in ((lines[0], "attn_tp", "attn_dp"), (lines[3], "rms_norm_eps=1e-05", "rms_norm_eps=0.001")):
            own, other = re.fullmatch(r""".* \(rank 0 has ['"](.*)['"], rank 1 ['"](.*)['"]\)""", line).groups()  # type: ignore[union-attr]
            assert both[0] in own, line
            assert both[1] in other, line
        assert lines[-1] == "fine"


def test_groups_wait_as_long_as_the_ranks_for_one_another(ends: Ends) -> None:
    assert lines_of("patience", ends) == [["True"], ["True"]]


def test_a_rank_that_dies_is_an_error_of_the_others_which_end_well(folder: Path) -> None:
    (status, lines, errors), (killed, _, _) = run(f"gone={folder / 'llama'}")
    assert killed == -9
    assert len(lines) == 1, errors
    assert lines[0].startswith(
        "gone: CommunicationError: all_reduce over attn_tp|dense_tp (ranks 0, 1) failed on rank 0: "
    )
    assert "another rank has ended" in lines[0]
    assert status == 3, errors
