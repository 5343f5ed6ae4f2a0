"""The real command with the real engine on the bundled miniature; one server for all tests that do not break it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

START_SECONDS = 90.0
FAST_START = ("--kv-cache-tokens", "65536", "--max-num-seqs", "8")


class Server:
    """A ``ts-entry`` process on a free port, with a directory for temporary files of its own."""

    def __init__(self, *options: str, model: str = "kimi-k2.5") -> None:
        # A short path: unix sockets live below it.
        self.temporary = Path(tempfile.mkdtemp(prefix="ts-e2e-"))
        env = {**os.environ, "TMPDIR": str(self.temporary), "HF_HUB_OFFLINE": "1"}
        env.pop("TS_MODELS", None)
        command = [sys.executable, "-m", "ts_entry.cli", "--model", model, "--port", "0", "--device", "cpu", *options]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """What it has printed."""
        return "".join(self.lines)

    def until(self, words: str, *, seconds: float = START_SECONDS) -> None:
        """Wait for something to be printed."""
        wait_for(lambda: words in self.text or self.process.poll() is not None, words, seconds=seconds)
        self._reader.join(0.2 if self.process.poll() is not None else 0)
        assert words in self.text, self.text

    @property
    def url(self) -> str:
        """Where it listens, once it is ready."""
        self.until("ready ")
        line = next(line for line in self.lines if "ready " in line)
        return next(word for word in line.split() if word.startswith("http://"))

    @property
    def client(self) -> OpenAI:
        """OpenAI's own client."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=60)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /health."""
        response = httpx.get(f"{self.url}/health", timeout=10)
        return response.status_code, response.json()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name]
        assert values, f"{name} in {lines}"
        return sum(values)

    def children(self) -> dict[str, int]:
        """Process ids of the scheduler and the workers, beside the first with their rank."""
        modules = {"ts_scheduler": "scheduler", "ts_runtime": "worker"}
        found = {}
        for pid, command in self.processes():
            for module, role in modules.items():
                if f"-m {module} " in command:
                    rank = command.rpartition("-")[2].partition(".")[0]
                    found[role if rank == "0" else f"{role} {rank}"] = pid
        return found

    def processes(self) -> list[tuple[int, str]]:
        """Processes that have to do with this launch's directory, zombies left out."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.temporary) in command:
                    found.append((int(folder.name), command))
        return found

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Signal it and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(60)
        self._reader.join(5)
        return code

    def nothing_is_left(self) -> None:
        """No process, socket or directory of this launch."""
        wait_for(lambda: not self.processes(), f"no process of {self.temporary}")
        # torch and others may keep caches of their own below TMPDIR; ours begin with this
        wait_for(lambda: not list(self.temporary.glob("tokenspeed-*")), "no runtime directory")

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in iter(stream.readline, ""):
                self.lines.append(line)


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def waiting() -> Callable[..., None]:
    """``wait_for``, for tests."""
    return wait_for


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Server]]:
    """Starts servers; what still runs at the end is killed."""
    started: list[Server] = []

    def start(*options: str, model: str = "kimi-k2.5") -> Server:
        started.append(Server(*options, model=model))
        return started[-1]

    yield start
    for server in started:
        server.end(signal.SIGKILL)
        server.nothing_is_left()
        shutil.rmtree(server.temporary)


@pytest.fixture(scope="session")
def server(launch: Callable[..., Server]) -> Server:
    """The shared server; leave it running."""
    running = launch(*FAST_START)
    assert running.url
    return running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's client of the shared server."""
    with server.client as made:
        yield made
