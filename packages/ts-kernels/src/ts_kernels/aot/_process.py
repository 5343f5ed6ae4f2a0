"""The parent's side of a compiling process."""

import json
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

from .. import settings
from . import Build
from ._targets import Target
from ._wire import pack

LIMIT_SECONDS = 900.0


class Compiler:
    """A process that compiles one build after another, without Triton's interpreter; started anew when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it

    def ask(self, build: Build, target: Target) -> dict[str, Any]:
        """Figures, or {"error": ...}; a process that dies or is not done in time is an error of this build alone."""
        try:
            line = pack(build, target)
        except TypeError as error:
            return {"error": f"TypeError: {error}"}
        process = self._process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return self._dead(process)
        end = time.monotonic() + LIMIT_SECONDS
        while not select.select([process.stdout], [], [], 1.0)[0]:
            if time.monotonic() > end:
                self._stop(kill=True)
                return {"error": f"took longer than {LIMIT_SECONDS:.0f} s"}
        said = process.stdout.readline()
        if not said:
            return self._dead(process)
        answer: dict[str, Any] = json.loads(said)
        return answer

    def close(self) -> None:
        """End the process, for good."""
        self._stop(kill=False)
        self._errors.close()

    def _stop(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        if kill:
            process.kill()
        process.stdin.close()
        process.wait()
        process.stdout.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._errors.truncate(0)
        return subprocess.Popen(
            [sys.executable, "-m", "ts_kernels.aot._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**settings.environment(), "TRITON_INTERPRET": "0"},
        )

    def _dead(self, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        status = process.wait()
        self._stop(kill=True)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-400:]
        return {"error": f"the compiling process ended with status {status}: {said}"}
