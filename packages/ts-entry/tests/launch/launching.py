"""Starts the real command with fake engine processes, and looks for what it left behind."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

FAKES = Path(__file__).parent / "fakes"
BYTECODE: list[Path] = []
"""Where the processes keep compiled modules, so that each start does not compile everything again."""


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint with a tokenizer of the 256 bytes; its weights are one byte."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["KimiK25ForConditionalGeneration"]}))
    table = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(len(table).to_bytes(8, "little") + table + b"\0")
    ranks = (f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (folder / "tiktoken.model").write_text("".join(ranks))
    named = {"256": {"content": "[EOS]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": named, "eos_token": "[EOS]"}))
    return folder


class Launched:
    """A ``ts-entry`` process and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]", temporary: Path) -> None:
        self.process = process
        self.temporary = temporary
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def url(self) -> str:
        """Once it is ready."""
        self.until("ready ")
        line = next(line for line in self.lines if "ready " in line)
        return next(word for word in line.split() if word.startswith("http://"))

    def until(self, words: str, *, seconds: float = 20) -> None:
        """Wait for something to be printed."""
        wait_for(lambda: words in self.text, f"{words!r} in {self.text}", seconds=seconds, alive=self.process)

    def children(self) -> dict[str, int]:
        """Process ids by the module that they run; workers beside the first with their rank."""
        found = {}
        for pid, parent, command in processes():
            if parent == self.process.pid:
                rank = command.rpartition("-")[2].partition(".")[0]
                worker = "worker" if rank == "0" else f"worker {rank}"
                found[worker if "fake_worker" in command else "scheduler" if "fake_scheduler" in command else "sh"] = (
                    pid
                )
        return found

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def end(self, *, seconds: float = 15) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def health(self) -> tuple[int, dict[str, Any]]:
        response = httpx.get(f"{self.url}/health", timeout=5)
        return response.status_code, response.json()

    def nothing_is_left(self) -> None:
        """No process that was started here, no runtime directory, no socket."""
        marker = str(self.temporary)
        wait_for(lambda: not any(marker in command for _, _, command in processes()), "no process of this launch")
        wait_for(lambda: not list(self.temporary.iterdir()), f"an empty {self.temporary}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.lines.extend(iter(stream.readline, ""))


@contextmanager
def launched(checkpoint: Path, temporary: Path, *options: str, **environment: str) -> Iterator[Launched]:
    """``ts-entry`` on a free port with the fakes; it is killed at the end if it still runs."""
    temporary.mkdir(exist_ok=True)
    paths = [str(FAKES), *(path for path in sys.path if path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(temporary), **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = str(BYTECODE[0])
    command = [sys.executable, "-m", "ts_entry_with_fakes", str(checkpoint), "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    running = Launched(process, temporary)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        running.end()


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, command line) of every process that is not a zombie."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                yield int(folder.name), int(fields[1]), command


def wait_for(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float = 20,
    alive: "subprocess.Popen[str] | None" = None,
) -> None:
    """Poll until it holds; fails with ``what`` otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = alive is not None and alive.poll() is not None
        if ended:
            time.sleep(0.2)
            if condition():
                return
        assert not ended, f"the process ended while waiting for {what}"
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
