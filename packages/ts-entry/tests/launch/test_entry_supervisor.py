"""Whom the supervisor blames, and what it forgives."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ts_entry import launcher, rundir, signals
from ts_entry.children import Child, Unit
from ts_entry.config import ServeConfig
from ts_entry.engine import EngineClient
from ts_entry.errors import EngineLostError, Stopped
from ts_entry.rundir import RunDirectory, sweep
from ts_entry.supervisor import Supervisor, Watch, ending
from ts_protocol.messages import Failed, Heartbeat, Ready, Role


@dataclass
class FakeChild:
    role: Role
    rank: int = 0
    pid: int = 7
    tail: deque[str] = field(default_factory=deque)
    exited: Future[int] = field(default_factory=Future)

    @property
    def title(self) -> str:
        return "the scheduler" if self.role == "scheduler" else f"worker {self.rank}"


@dataclass
class FakeUnit:
    children: list[FakeChild]
    generation: int = 0


class Scene:
    """A scheduler and a worker under watch, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.worker, self.scheduler = FakeChild("worker"), FakeChild("scheduler")
        unit: Any = FakeUnit([self.worker, self.scheduler])
        self.watch = Watch(unit, clock=lambda: self.now)

    def exit(self, child: FakeChild, code: int) -> None:
        child.exited.set_result(code)
        gone: Any = child
        self.watch.ended(gone)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_killed_worker_is_blamed_although_the_scheduler_ended_first(scene: Scene) -> None:
    scene.watch.note(Failed("scheduler", 0, "worker 0 has disconnected from the scheduler"))
    scene.exit(scene.scheduler, 1)
    scene.now += 0.2
    scene.exit(scene.worker, -11)
    assert scene.watch.cause() == "worker 0 was killed by SIGSEGV"


def test_a_worker_that_failed_is_blamed_before_it_has_exited(scene: Scene) -> None:
    scene.watch.note(Failed("scheduler", 0, "worker 0 has disconnected from the scheduler"))
    scene.now += 0.05
    scene.watch.note(Failed("worker", 0, "out of pages"))
    scene.exit(scene.scheduler, 1)
    assert scene.watch.cause() == "worker 0 failed: out of pages"
    scene.exit(scene.worker, 1)
    assert scene.watch.cause() == "worker 0 ended with exit code 1: out of pages"


def test_a_scheduler_that_failed_well_before_is_blamed(scene: Scene) -> None:
    scene.watch.note(Failed("scheduler", 0, "conservation of pages"))
    scene.exit(scene.scheduler, 1)
    scene.now += 1
    scene.watch.note(Failed("worker", 0, "the scheduler has gone"))
    scene.exit(scene.worker, 1)
    assert scene.watch.cause() == "the scheduler ended with exit code 1: conservation of pages"


def test_the_last_line_stands_in_for_a_message(scene: Scene) -> None:
    scene.worker.tail.extend(["Traceback", "ModuleNotFoundError: No module named 'x'"])
    scene.exit(scene.worker, 1)
    assert scene.watch.cause().endswith("exit code 1: ModuleNotFoundError: No module named 'x'")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL (out of memory?)"), (-15, "SIGTERM"), (-200, "signal 200")],
)
def test_endings(code: int, words: str) -> None:
    assert words in ending(code)


def test_silence(scene: Scene) -> None:
    watch, now = scene.watch, scene.now
    for second in range(1, 12):
        scene.now = now + second
        watch.note(Heartbeat("scheduler", 0, second))
        silent = watch.silent(10)
        assert (silent is not None) == (second > 10)
    assert silent is not None
    assert silent.role == "worker"


def test_a_supervisor_that_was_stopped_itself_blames_nobody(scene: Scene) -> None:
    scene.now += 3600
    assert scene.watch.silent(10) is None
    scene.now += 1
    assert scene.watch.silent(10) is None


def test_ready_means_everybody(scene: Scene) -> None:
    async def check() -> None:
        scene.watch.note(Ready("worker", 0, {"a": "1"}))
        assert not scene.watch.all_ready.is_set()
        scene.watch.note(Ready("scheduler", 0, {"b": "2"}))
        assert scene.watch.all_ready.is_set()

    asyncio.run(check())
    assert scene.watch.details == {"a": "1", "b": "2"}


class StoppableUnit(FakeUnit):
    """Takes a while to stop; ``alive`` outlive it."""

    def __init__(self, generation: int, *, alive: int = 0) -> None:
        super().__init__([FakeChild("worker"), FakeChild("scheduler")], generation)
        self.stopped = False
        self._alive = alive

    def stop(self) -> list[FakeChild]:
        time.sleep(0.3)
        self.stopped = True
        return self.children[: self._alive]


class Mortal(Supervisor):
    """Its generations die at once."""

    def __init__(self, start: Any) -> None:
        self.engine = EngineClient()
        self.engine.health.generation = 1
        anything: Any = None
        super().__init__(
            start=start, engine=self.engine, context=anything, fingerprint="", listener=anything, hang_timeout=1
        )

    async def _generation(self, unit: Any) -> str:
        return "it died"


async def ticks(counted: list[float]) -> None:
    while True:
        counted.append(time.monotonic())
        await asyncio.sleep(0.01)


def test_the_next_generation_waits_for_the_end_of_the_last_and_the_loop_goes_on() -> None:
    first: Any = StoppableUnit(0)
    started: list[bool] = []

    def start(generation: int) -> Any:
        started.append(first.stopped)
        raise ConnectionAbortedError  # ends the test

    async def check() -> None:
        counted: list[float] = []
        ticking = asyncio.ensure_future(ticks(counted))
        with pytest.raises(ConnectionAbortedError):
            await Mortal(start).run(first)
        ticking.cancel()
        assert len(counted) > 5
        assert started == [True]

    asyncio.run(check())


def test_a_process_that_cannot_be_ended_ends_the_server() -> None:
    unit: Any = StoppableUnit(0, alive=1)
    with pytest.raises(EngineLostError, match=r"worker 0 \(process 7\) did not end after SIGKILL"):
        asyncio.run(Mortal(lambda _: pytest.fail("a generation was started beside it")).run(unit))


@pytest.mark.parametrize("early", [True, False], ids=["before the death", "while the processes end"])
def test_nothing_is_started_while_draining(early: bool) -> None:
    async def check() -> None:
        supervisor = Mortal(lambda _: pytest.fail("a generation was started during the drain"))
        if early:
            supervisor.drain()
        else:
            asyncio.get_running_loop().call_later(0.1, supervisor.drain)
        unit: Any = StoppableUnit(0)
        await supervisor.run(unit)

    asyncio.run(check())


def test_a_unit_ends_what_is_deaf_to_sigterm() -> None:
    unit = Unit.__new__(Unit)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = Child("worker", 0, [sys.executable, "-c", code], environment={})
    unit.children = [child]
    while not child.tail:
        time.sleep(0.01)
    assert unit.stop(grace=0.2) == []
    assert child.exited.result() == -9


def test_sweep_takes_only_what_the_dead_left(tmp_path: Path) -> None:
    for name, owner in {
        "tokenspeed-dead": "999999999 5",
        "tokenspeed-reused": "1 5",
        "tokenspeed-odd": "nobody",
        "other-dead": "999999999 5",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / rundir.OWNER).write_text(owner)
    (tmp_path / "tokenspeed-bare").mkdir()
    alive = RunDirectory(tmp_path)
    try:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"tokenspeed-odd", "tokenspeed-bare", "other-dead", alive.path.name}
        assert sweep(tmp_path) == []
        assert alive.address("x") == f"ipc://{alive.path}/x.sock"
    finally:
        alive.close()
        alive.close()
    assert not alive.path.exists()


def test_sweep_takes_an_old_directory_without_an_owner_only_if_it_is_empty(tmp_path: Path) -> None:
    for name, old in (("old", True), ("young", False), ("somebodys", True)):
        folder = tmp_path / f"tokenspeed-{name}"
        folder.mkdir()
        if name == "somebodys":
            (folder / "work.txt").touch()
        if old:
            os.utime(folder, (0, 0))
    assert [path.name for path in sweep(tmp_path)] == ["tokenspeed-old"]
    assert (tmp_path / "tokenspeed-somebodys" / "work.txt").exists()


def test_a_directory_that_gets_no_guard_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(OSError, match="no more processes"):
        RunDirectory(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_deferred_signal_arrives_at_the_end() -> None:
    done = []

    def work() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append("all of it")

    with signals.raising(), pytest.raises(Stopped):
        work()
    assert done == ["all of it"]


def test_a_signal_while_the_directory_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rundir.RunDirectory.__init__

    def interrupted(self: RunDirectory) -> None:
        real(self, tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)  # before anybody can close it

    checkpoint: Any = SimpleNamespace(resolve=lambda: None)
    monkeypatch.setattr(rundir.RunDirectory, "__init__", interrupted)
    monkeypatch.setattr(launcher, "Resolver", lambda **_: checkpoint)
    monkeypatch.setattr(launcher, "announce", lambda *_: None)
    with pytest.raises(Stopped):
        launcher.launch(ServeConfig(model="m", port=0))
    assert list(tmp_path.iterdir()) == []
