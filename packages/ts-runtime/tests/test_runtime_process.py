"""The worker as a process over real sockets, against a scheduler and a supervisor played by the test."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from safetensors.torch import load_file
from ts_modeling import load_model
from ts_modeling.testing import save_tensors, write_checkpoint
from ts_protocol import Channel, HandshakeError, RuntimeDirectory
from ts_protocol.config import WorkerConfig
from ts_protocol.handshake import answer
from ts_protocol.messages import (
    ChildToSupervisor,
    Failed,
    Heartbeat,
    Hello,
    KvCapacity,
    Progress,
    Ready,
    SamplingParams,
    StepPlan,
    StepResult,
    WorkerToScheduler,
)
from ts_runtime.devices import CpuDevice
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize
from ts_runtime.testing import Plan, PlanMaker

PATIENCE = 120.0


class Stage:
    """A scheduler's and a supervisor's sockets, and one worker process between them."""

    def __init__(self, directory: RuntimeDirectory, checkpoint: Path) -> None:
        self.directory = directory
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.scheduler: Channel[Any] = Channel.bind(
            self.context, directory.address("worker-0"), incoming=WorkerToScheduler
        )
        control = self.context.socket(zmq.PULL)
        control.bind(directory.address("control"))
        self.control: Channel[Any] = Channel(control, incoming=ChildToSupervisor)
        self.checkpoint = checkpoint
        self.child: subprocess.Popen[str] | None = None
        self.told: list[Any] = []

    def start(self, **changes: Any) -> "subprocess.Popen[str]":
        config = WorkerConfig(
            rank=0,
            world_size=1,
            checkpoint=str(self.checkpoint),
            device="cpu",
            dtype="float32",
            kv_cache_dtype="auto",
            load_format="auto",
            scheduler_address=self.directory.address("worker-0"),
            control_address=self.directory.address("control"),
            fingerprint="tiny-1",
            page_size=16,
            kv_cache_tokens=512,
            max_num_seqs=4,
            max_model_len=0,
            chunk_tokens=64,
            threads=1,
        )
        path = self.directory.path / "worker.json"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(config, **changes)))
        command = [sys.executable, "-W", "ignore", "-m", "ts_runtime", str(path)]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        return self.child

    def hear(self, kind: type) -> Any:
        """The next control message of this kind; those before it are kept in ``told``."""
        while True:
            assert self.control.poll(PATIENCE), f"waiting for {kind.__name__} after {self.told}"
            message = self.control.recv()[0]
            self.told.append(message)
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Failed), message

    def receive(self) -> tuple[Any, list[Any]]:
        """The next message of the worker to the scheduler."""
        if not self.scheduler.poll(PATIENCE):
            raise AssertionError(f"no message from the worker; the supervisor heard {self.told}")
        return self.scheduler.recv()

    def welcome(self) -> Hello:
        return answer(self.scheduler, self.receive()[0], role="scheduler", expect="worker", fingerprint="tiny-1")

    def end(self) -> tuple[int, str]:
        """Exit code and what the worker printed on standard error, but for a note on kernels that are not built."""
        assert self.child is not None
        _, printed = self.child.communicate(timeout=PATIENCE)
        lines = [line for line in printed.splitlines(keepends=True) if not line.startswith("the native CPU kernels")]
        return self.child.returncode, "".join(lines)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.communicate()
        self.control.close()
        self.scheduler.close()
        self.context.term()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(made)
    return made


@pytest.fixture
def stage(checkpoint: Path) -> Iterator[Stage]:
    with RuntimeDirectory() as directory:
        made = Stage(directory, checkpoint)
        yield made
        made.close()


def test_a_worker_serves_from_start_to_sigterm(stage: Stage) -> None:
    child = stage.start()
    hello = stage.welcome()
    assert (hello.role, hello.rank) == ("worker", 0)
    assert hello.kv == KvCapacity(page_size=16, num_pages=32, max_num_seqs=4, max_model_len=256, vocab_size=320)
    ready = stage.hear(Ready)
    phases = list(dict.fromkeys(message.phase for message in stage.told if isinstance(message, Progress)))
    assert phases == [
        "importing torch",
        "reading config",
        "loading weights",
        "allocating cache",
        "warming up",
        "greeting the scheduler",
    ]
    weights = [message for message in stage.told if isinstance(message, Progress) and message.total]
    assert weights[-1].done == weights[-1].total > 0
    assert ready.detail["device"] == "cpu"
    assert ready.detail["dtype"] == "float32"
    assert ready.detail["kv_tokens"] == "512"
    assert int(ready.detail["weights_bytes"]) == weights[-1].total

    serve_two_in_flight(stage)

    first = stage.hear(Heartbeat)
    while first.steps < 6:
        first = stage.hear(Heartbeat)
    began = time.monotonic()
    beats = [stage.hear(Heartbeat) for _ in range(3)]
    assert [beat.steps for beat in beats] == [6, 6, 6]
    assert 1.0 < time.monotonic() - began < 10, "twice a second while idle"
    child.send_signal(signal.SIGTERM)
    assert stage.end() == (0, "")


def serve_two_in_flight(stage: Stage) -> None:
    """Six steps of which the scheduler sends each before it has seen the tokens of the one before."""
    maker = PlanMaker(num_pages=32, page_size=16)
    maker.admit(3, [5, 6, 7])
    maker.admit(0, list(range(40)))
    maker.prefill(3, 3)
    maker.prefill(0, 40)
    plans = [maker.plan()]
    for _ in range(5):
        maker.decode(0)
        maker.decode(3)
        plans.append(maker.plan())
    stage.scheduler.send(plans[0][0], *plans[0][1])
    for index, plan in enumerate(plans):
        if index + 1 < len(plans):
            stage.scheduler.send(plans[index + 1][0], *plans[index + 1][1])
        result, (tokens,) = stage.receive()
        assert (type(result), result.step) == (StepResult, plan[0].step)
        assert result.duration_ns > 0
        maker.settle(plan, tokens)
    assert (len(maker.live[0].tokens), len(maker.live[3].tokens)) == (46, 9)


def test_a_refused_handshake_ends_the_worker_with_the_reason(stage: Stage) -> None:
    stage.start(fingerprint="tiny-2")
    with pytest.raises(HandshakeError, match="'tiny-2' and this side 'tiny-1'"):
        stage.welcome()
    code, printed = stage.end()
    assert code == 1
    assert printed.count("\n") == 1
    assert "'tiny-2'" in printed
    assert "'tiny-1'" in printed
    assert "'tiny-1'" in last_words(stage)


def last_words(stage: Stage) -> str:
    """The message of the worker's ``Failed``."""
    while (received := stage.control.try_recv()) is not None:
        if isinstance(received[0], Failed):
            return received[0].message
    raise AssertionError("the supervisor was not told")


def test_an_impossible_plan_ends_the_worker_with_the_reason(stage: Stage) -> None:
    stage.start()
    stage.welcome()
    empty = np.zeros(0, np.int32)
    stage.scheduler.send(StepPlan(1, [], []), np.array([2, 0, 1, 0], np.int32), np.array([1], np.int32), empty, empty)
    code, printed = stage.end()
    assert (code, printed) == (1, f"ts_runtime: {last_words(stage)}\n")
    assert "rows for slots [2]" in printed


def test_a_broken_checkpoint_is_one_sentence(stage: Stage, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["language_model.model.layers.1.self_attn.o_proj.weight"]
    save_tensors(tmp_path, tensors)
    stage.start(checkpoint=str(tmp_path))
    code, printed = stage.end()
    assert code == 1
    assert "model.layers.1.self_attn.o_proj" in printed
    assert "Traceback" not in printed
    assert printed == f"ts_runtime: {last_words(stage)}\n"


@pytest.mark.parametrize("phase", ["importing torch", "meeting the other ranks", "loading weights"])
def test_a_signal_in_any_phase_ends_the_worker_cleanly(stage: Stage, phase: str) -> None:
    alone = {"rank": 1, "world_size": 2, "mesh": "attn_tp=2,moe_tp=2", "rendezvous": "127.0.0.1:1"}
    child = stage.start(**(alone if phase.startswith("meeting") else {}))
    while stage.hear(Progress).phase != phase:
        pass
    time.sleep(0.5 * phase.startswith("meeting"))
    child.send_signal(signal.SIGINT if phase == "loading weights" else signal.SIGTERM)
    assert stage.end() == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_a_worker_ends_with_its_parent(stage: Stage) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-W', 'ignore', '-m', 'ts_runtime', sys.argv[1]])"
    stage.start()
    assert stage.child is not None
    stage.child.kill()
    stage.child.communicate()
    path = str(stage.directory.path / "worker.json")
    parent = subprocess.Popen([sys.executable, "-c", code, path])
    stage.welcome()
    stage.hear(Ready)
    stage.hear(Heartbeat)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while stage.control.poll(2.0):
        stage.control.recv()
        assert time.monotonic() < deadline, "the worker outlives its parent"


def test_a_wrong_command_line_is_explained() -> None:
    run = subprocess.run([sys.executable, "-m", "ts_runtime"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "usage: python -m ts_runtime CONFIG.json\n")
    run = subprocess.run([sys.executable, "-m", "ts_runtime", os.devnull], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("ts_runtime: worker configuration /dev/null: ")


# --- several ranks ----------------------------------------------------------------------------------------------------

KEPT = SamplingParams(temperature=1.0, top_k=20, seed=11)
NUCLEUS = SamplingParams(temperature=0.8, top_p=0.9, seed=2**64 - 3)
ANY = SamplingParams(temperature=1.0, seed=13)


def plans_of_mixed_requests() -> list[Plan]:
    """Rows that are drawn among candidates alone, rows that are not alone, and both; chunks, steady steps, a slot that
    changes hands."""
    maker = PlanMaker(num_pages=32, page_size=16)
    plans: list[Plan] = []

    def step(*decodes: int, **prefills: int) -> None:
        for slot in decodes:
            maker.decode(slot)
        for slot, count in prefills.items():
            maker.prefill(int(slot[1:]), count)
        plans.append(maker.plan())

    maker.admit(0, [5, 6, 7])
    maker.admit(1, list(range(40)), KEPT)
    step(s0=3, s1=40)
    for _ in range(4):
        step(0, 1)
    maker.admit(2, list(range(300, 320)), NUCLEUS)
    maker.admit(3, [9], ANY)
    step(1, s2=15, s3=1)
    step(0, 1, 3, s2=5)
    for _ in range(5):
        step(0, 1, 2, 3)
    maker.release(0)
    maker.release(1)
    for _ in range(3):
        step(2, 3)
    maker.admit(0, [3, 2, 1], KEPT)
    step(2, s0=3)
    for _ in range(4):
        step(0, 2)
    return plans


def tokens_of_one_rank(checkpoint: Path, plans: list[Plan]) -> list[list[int]]:
    model, pool = load_model(checkpoint, dtype="float32"), PoolSize(num_pages=32, page_size=16, max_model_len=256)
    cache = model.new_cache(32, 16)
    executor = Executor(model, cache, pool, device=CpuDevice(), max_num_seqs=4, chunk_tokens=64)
    return [executor.launch(*plan).wait().tolist() for plan in plans]


@pytest.fixture(scope="module")
def cut_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the vocabulary are not of one size."""
    made = tmp_path_factory.mktemp("cut")
    write_checkpoint(made, moe_intermediate_size=128, vocab_size=323)
    return made


@pytest.fixture
def ranks(cut_checkpoint: Path) -> Iterator[list[Stage]]:
    """Room for four."""
    with ExitStack() as undo:
        stages = [Stage(undo.enter_context(RuntimeDirectory()), cut_checkpoint) for _ in range(4)]
        for stage in stages:
            undo.callback(stage.close)
        yield stages


def start_ranks(stages: list[Stage], mesh: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        meeting = f"127.0.0.1:{found.getsockname()[1]}"
    for rank, stage in enumerate(stages):
        stage.start(rank=rank, world_size=len(stages), mesh=mesh, rendezvous=meeting)
    for rank, stage in enumerate(stages):
        assert stage.welcome().rank == rank


@pytest.mark.parametrize(
    ("world", "mesh"),
    [
        (1, ""),
        (2, "attn_tp=2,moe_tp=2"),
        pytest.param(2, "attn_tp=2,moe_ep=2", marks=pytest.mark.nightly),
        pytest.param(4, "attn_tp=4,moe_tp=2,moe_ep=2", marks=pytest.mark.nightly),
    ],
)
def test_several_ranks_draw_what_one_draws_and_the_first_answers(ranks: list[Stage], world: int, mesh: str) -> None:
    stages = ranks[:world]
    start_ranks(stages, mesh)
    plans = plans_of_mixed_requests()
    for plan, frames in plans:
        for stage in stages:
            stage.scheduler.send(plan, *frames)
    answers = [stages[0].receive() for _ in plans]
    assert [result.step for result, _ in answers] == [plan.step for plan, _ in plans]
    assert [tokens.tolist() for _, (tokens,) in answers] == tokens_of_one_rank(stages[0].checkpoint, plans)
    for stage in stages:
        beat = stage.hear(Heartbeat)
        while beat.steps < len(plans):
            beat = stage.hear(Heartbeat)
    assert not any(stage.scheduler.poll(0) for stage in stages), "the first has said everything, the others nothing"
    for stage in stages:
        assert stage.child
        stage.child.send_signal(signal.SIGTERM)
    assert [stage.end() for stage in stages] == [(0, "")] * len(stages)


def test_a_rank_that_is_left_alone_says_so(ranks: list[Stage]) -> None:
    first, second = ranks[:2]
    start_ranks([first, second], "attn_tp=2,moe_tp=2")
    first.hear(Ready)
    assert second.child
    second.child.kill()
    second.end()
    plan, frames = plans_of_mixed_requests()[0]
    first.scheduler.send(plan, *frames)
    code, printed = first.end()
    assert code == 1
    assert "failed on rank 0: another rank has ended" in printed
    assert printed == f"ts_runtime: {last_words(first)}\n"
