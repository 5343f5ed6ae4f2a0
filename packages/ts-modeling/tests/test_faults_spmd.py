"""What goes wrong between two processes (gloo) is an error that says what, on the rank that can know, and in time."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ts_modeling.testing import tiny_config, write_tiny

WORKER = str(Path(__file__).with_name("faults_worker.py"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(job: str, checkpoint: Path, *, seconds: float = 60) -> list[tuple[int, list[str], str]]:
    """Exit status, printed lines and errors of both ranks."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, job, str(checkpoint), str(seconds)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(p.returncode, out.splitlines(), err) for p, (out, err) in zip(processes, said, strict=True)]


def lines_of(job: str, checkpoint: Path) -> list[list[str]]:
    """Of a job in which both ranks end well."""
    ends = run(job, checkpoint)
    assert [status for status, _, _ in ends] == [0, 0], "\n".join(err for _, _, err in ends)
    return [lines for _, lines, _ in ends]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3_moe")
    write_tiny(folder, tiny_config("qwen3_moe", num_experts=8))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_tiny(folder, tiny_config("llama"))
    return folder


def test_a_rank_whose_sizes_are_not_its_batch_refuses_them(mixture: Path) -> None:
    """Before anything is sent, so that the ranks stay in step."""
    first, second = lines_of("sizes", mixture)
    assert first[0].startswith("MeshError: batch.dp_sizes[0] = 4, but this rank is of attn_dp group 0")
    assert second[0].startswith("MeshError: batch.dp_sizes[1] = 1, but this rank is of attn_dp group 1")
    for lines in (first, second):
        assert lines[1].startswith("MeshError: batch.dp_sizes tells the tokens of 3 groups, the mesh has attn_dp=2")
        assert lines[2].startswith("MeshError: batch.dp_sizes[0] = 3.0; give a whole number")
        assert lines[3].startswith("MeshError: batch.dp_sizes[1] = -2; give a whole number")
        assert lines[4:] == ["fine"]


def test_an_id_outside_of_a_cut_vocabulary_is_refused_on_every_rank(llama: Path) -> None:
    for lines in lines_of("ids", llama):
        assert lines[0] == "ContractError: gemm.gather_rows: ids must be in [0, 320), got values from 1 to 32000"
        assert lines[1] == "ContractError: gemm.gather_rows: ids must be in [0, 320), got values from -7 to 2"
        assert lines[2:] == ["fine"]
