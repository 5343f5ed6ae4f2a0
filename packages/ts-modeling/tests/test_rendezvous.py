"""Ranks find one another as torchrun, Slurm and OpenMPI tell them, or say what is missing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ts_modeling import MeshError, join
from ts_modeling.communication import Place, find_place
from ts_modeling.communication.launchers import first_host

WORKER = str(Path(__file__).with_name("join_worker.py"))
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[003-005,9],cpu1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "a,b"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place(0, 1, 0, "127.0.0.1", 29500, "a single process")),
        (TORCHRUN, Place(3, 8, 1, "10.0.0.1", 29501, "torchrun")),
        (SLURM, Place(5, 8, 1, "gpu003", 24567, "Slurm")),
        ({**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "1"}, Place(5, 8, 1, "head", 1, "Slurm")),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "6"}, Place(5, 6, 1, "gpu003", 24567, "Slurm")),
        ({**SLURM, "SLURM_STEP_NODELIST": "cpu1"}, Place(5, 8, 1, "cpu1", 24567, "Slurm")),
        ({**SLURM, **TORCHRUN}, Place(3, 8, 1, "10.0.0.1", 29501, "torchrun")),
        (BATCH_SCRIPT, Place(0, 1, 0, "127.0.0.1", 29500, "a single process")),
        ({**BATCH_SCRIPT, "SLURM_LOCALID": "0"}, Place(0, 1, 0, "127.0.0.1", 29500, "a single process")),
        ({**SLURM, "SLURM_PROCID": "0"}, Place(0, 8, 1, "gpu003", 24567, "Slurm")),
        (OPENMPI, Place(1, 2, 1, "127.0.0.1", 29500, "OpenMPI")),
    ],
)
def test_each_launcher_tells_a_place(environ: dict[str, str], place: Place) -> None:
    assert find_place(environ) == place


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("a,b", "a"),
        ("gpu[003-005,9],cpu1", "gpu003"),
        ("rack1-node[07,09]-ib", "rack1-node07-ib"),
        ("n[1-2]x[3-4],m", "n1x3"),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environ", "missing"),
    [(TORCHRUN, name) for name in TORCHRUN if name != "LOCAL_RANK"]
    + [(SLURM, name) for name in SLURM if name not in ("SLURM_PROCID", "SLURM_STEP_ID")]
    + [({**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MASTER_ADDR")],
)
def test_a_missing_variable_is_named(environ: dict[str, str], missing: str) -> None:
    with pytest.raises(MeshError, match=missing):
        find_place({name: value for name, value in environ.items() if name != missing})


@pytest.mark.parametrize("nodes", ["[[[", ",a", "a b"])
def test_a_list_of_hosts_that_has_no_first_one_is_named(nodes: str) -> None:
    with pytest.raises(MeshError, match=r"SLURM_JOB_NODELIST = .* begins with no host"):
        find_place({**SLURM, "SLURM_JOB_NODELIST": nodes})


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(MeshError, match=r"timeout = .*; give seconds above 0"):
        join("attn_tp=2", timeout=timeout, environ={})


def test_a_second_join_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(MeshError, match=r"has joined its ranks already; call leave\(\)"):
        join("attn_tp=8", environ=TORCHRUN)


def test_a_port_that_another_process_holds_is_not_called_late() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with pytest.raises(MeshError, match=rf"did not meet the others at 127.0.0.1:{port}; are all .* already in use"):
            join("attn_tp=2", environ=environ)


@pytest.mark.parametrize("value", ["", "two", "-1", "1.5", "٣"])
def test_a_rank_that_is_no_number_is_named(value: str) -> None:
    with pytest.raises(MeshError, match="RANK"):
        find_place({**TORCHRUN, "RANK": value})


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(MeshError, match="rank 8 is outside the world of 8"):
        find_place({**TORCHRUN, "RANK": "8"})


def test_a_world_that_the_mesh_does_not_fit_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(MeshError, match=r"has 4 ranks, but torchrun started 8.*--nproc-per-node 4"):
        join("attn_tp=4", environ=TORCHRUN)


def test_one_rank_opens_nothing() -> None:
    assert join("", environ={}).world == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean() -> dict[str, str]:
    """This environment without any launcher's variables."""
    words = ("SLURM_", "OMPI_", "MASTER_")
    taken = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {k: v for k, v in os.environ.items() if not k.startswith(words) and k not in taken}


def test_torchrun_brings_two_ranks_together() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    out = subprocess.run(
        [*command, str(free_port()), WORKER, "attn_tp=2"],
        env={**clean(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    assert sorted(line for line in out.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 of 2: 1 over 2",
        "rank 1 of 2: 1 over 2",
    ]


def slurm_ranks(world: int, present: int, *arguments: str) -> list[tuple[int, str]]:
    """Exit status and output of the first ``present`` ranks of a job on this host."""
    shared = {
        "SLURM_NTASKS": str(world),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_STEP_ID": "0",
        "MASTER_PORT": str(free_port()),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, *arguments],
            env={**clean(), **shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(present)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_slurm_variables_bring_two_ranks_together() -> None:
    """Both on one host, as its address says: nothing listens for other hosts."""
    ends = slurm_ranks(2, 2, "attn_dp=2,moe_ep=2")
    assert ends == [(0, "rank 0 of 2: 1 over 1\n"), (0, "rank 1 of 2: 1 over 1\n")]


def test_a_rank_that_never_comes_is_an_error_in_time() -> None:
    ((status, output),) = slurm_ranks(2, 1, "attn_tp=2", "3")
    assert status == 3
    assert "rank 0 of 2 (Slurm) did not meet the others at localhost:" in output
    assert "within 3 s" in output
