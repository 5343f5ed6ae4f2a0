"""The engine's processes: one scheduler and its workers, started and ended as one unit."""

import collections
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import msgspec
from ts_protocol.config import SchedulerConfig, WorkerConfig
from ts_protocol.messages import Role

from ts_entry.rundir import RunDirectory

TAIL_LINES: Final = 30
GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL."""
KILL_SECONDS: Final = 10.0
"""For the system to end a killed process, which a driver may hold."""

Echo = Callable[[str], None]


class Child:
    """A process in a session of its own. What it prints is kept (the last lines) and, with ``echo``, passed on.

    ``exited`` gives its return code, negative for a signal. Start it from the thread that lives as long as the
    launcher: Linux ends a child when the thread that started it does.
    """

    def __init__(
        self, role: Role, rank: int, command: Sequence[str], *, environment: Mapping[str, str], echo: Echo | None = None
    ) -> None:
        self.role: Role = role
        self.rank = rank
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.exited: Future[int] = Future()
        self._echo = echo
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, daemon=True).start()

    @property
    def pid(self) -> int:
        """Also the id of its process group."""
        return self._process.pid

    @property
    def title(self) -> str:
        """For sentences: ``the scheduler``, ``worker 0``."""
        return "the scheduler" if self.role == "scheduler" else f"worker {self.rank}"

    def send_signal(self, signum: int) -> None:
        """To the whole group, unless it has ended."""
        if self.exited.done():
            return
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip()
                self.tail.append(line)
                if self._echo is not None:
                    self._echo(f"[{self.role} {self.rank}] {line}")

    def _wait(self) -> None:
        code = self._process.wait()
        self._reader.join(0.2)
        self.exited.set_result(code)


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """What every generation of the engine is started with; the addresses come with each."""

    checkpoint: str
    fingerprint: str
    devices: tuple[str, ...]
    """A worker each."""
    mesh: str
    dtype: str
    kv_cache_dtype: str
    load_format: str
    page_size: int
    kv_cache_tokens: int
    max_num_seqs: int
    max_model_len: int
    chunk_tokens: int
    max_queued: int
    min_tps: float
    prefix_caching: bool
    threads: int
    debug: bool
    environment: Mapping[str, str]
    scheduler_module: str = "ts_scheduler"
    worker_module: str = "ts_runtime"


class Unit:
    """One generation: the scheduler and its workers, with sockets of their own."""

    def __init__(self, plan: EnginePlan, directory: RunDirectory, generation: int, *, echo: Echo | None = None) -> None:
        """Starts the processes."""
        self.generation = generation
        self.control_address = directory.address(f"control-{generation}")
        self.entry_address = directory.address(f"entry-{generation}")
        self.children: list[Child] = []
        ranks = range(len(plan.devices))
        addresses = tuple(directory.address(f"worker-{generation}-{rank}") for rank in ranks)
        meeting = f"127.0.0.1:{free_port()}" if len(ranks) > 1 else ""
        scheduler = _scheduler(plan, self.entry_address, addresses, self.control_address)

        def start(role: Role, rank: int, module: str, config: msgspec.Struct) -> None:
            path = directory.path / f"{role}-{generation}-{rank}.json"
            path.write_bytes(msgspec.json.encode(config))
            # -P: a file named like a module in the user's folder is not imported.
            command = [sys.executable, "-P", "-m", module, str(path)]
            self.children.append(Child(role, rank, command, environment=plan.environment, echo=echo))
            directory.watch([child.pid for child in self.children])

        try:
            for rank in ranks:  # workers first: they take longest
                worker = _worker(plan, rank, addresses[rank], self.control_address, meeting)
                start("worker", rank, plan.worker_module, worker)
            start("scheduler", 0, plan.scheduler_module, scheduler)
        except BaseException:
            self.stop(grace=0)
            raise

    def stop(self, *, grace: float = GRACE_SECONDS) -> list[Child]:
        """End the processes: SIGTERM, and after ``grace`` seconds SIGKILL; waits until they have ended.

        Returns those that outlived SIGKILL for ``KILL_SECONDS``. Safe to call from any thread, more than once.
        """
        if grace > 0:
            for child in self.children:
                child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            for child in self.children:
                _wait(child, deadline - time.monotonic())
        for child in self.children:
            child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        for child in self.children:
            _wait(child, deadline - time.monotonic())
        return [child for child in self.children if not child.exited.done()]


def _wait(child: Child, seconds: float) -> None:
    try:
        child.exited.result(max(0.0, seconds))
    except TimeoutError:
        return


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment: workers meet there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _worker(plan: EnginePlan, rank: int, scheduler_address: str, control_address: str, rendezvous: str) -> WorkerConfig:
    return WorkerConfig(
        rank=rank,
        world_size=len(plan.devices),
        mesh=plan.mesh,
        rendezvous=rendezvous,
        checkpoint=plan.checkpoint,
        device=plan.devices[rank],
        dtype=plan.dtype,
        kv_cache_dtype=plan.kv_cache_dtype,
        load_format=plan.load_format,
        scheduler_address=scheduler_address,
        control_address=control_address,
        fingerprint=plan.fingerprint,
        page_size=plan.page_size,
        kv_cache_tokens=plan.kv_cache_tokens,
        max_num_seqs=plan.max_num_seqs,
        max_model_len=plan.max_model_len,
        chunk_tokens=plan.chunk_tokens,
        threads=plan.threads,
        parent_pid=os.getpid(),
        debug=plan.debug,
    )


def _scheduler(
    plan: EnginePlan, entry_address: str, worker_addresses: tuple[str, ...], control_address: str
) -> SchedulerConfig:
    return SchedulerConfig(
        entry_address=entry_address,
        worker_addresses=worker_addresses,
        control_address=control_address,
        fingerprint=plan.fingerprint,
        chunk_tokens=plan.chunk_tokens,
        max_queued=plan.max_queued,
        min_tps=plan.min_tps,
        prefix_caching=plan.prefix_caching,
        parent_pid=os.getpid(),
        debug=plan.debug,
    )
