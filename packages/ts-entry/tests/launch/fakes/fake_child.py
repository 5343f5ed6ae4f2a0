"""What the fake scheduler and worker share. ``FAKE_WORKER`` and ``FAKE_SCHEDULER`` say how they misbehave:

``exit`` at once with code 3, ``fail`` with a message, ``stuck`` before ready, ``mute`` after ready; with ``@N`` only in
generation N.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq
from ts_protocol.control import ControlSender
from ts_protocol.messages import Role
from ts_protocol.process import die_with_parent, exit_on_signals

LONGEST_SECONDS = 300
"""After which even a child that is deaf to SIGTERM ends, should the test that started it have failed to."""


class Child:
    """A child process that behaves as told."""

    def __init__(self, role: Role, kind: type[Any]) -> None:
        signal.alarm(LONGEST_SECONDS)
        exit_on_signals()
        path = Path(sys.argv[1])
        self.config = msgspec.json.decode(path.read_bytes(), type=kind)
        if not die_with_parent(self.config.parent_pid):
            sys.exit(0)
        self.mode = self._mode(
            os.environ.get(f"FAKE_{role.upper()}", ""), path.stem.split("-")[1]
        )  # ROLE-GENERATION-RANK
        self.context = zmq.Context()
        rank = getattr(self.config, "rank", 0)  # there is one scheduler
        self.control = ControlSender(self.context, self.config.control_address, role=role, rank=rank)
        print(f"this is the fake {role}", flush=True)

    def start(self) -> None:
        """Everything before ready."""
        if self.mode == "exit":
            sys.exit(3)
        self.control.progress("loading weights", 50, 100)
        if self.mode == "fail":
            self.control.failed("the fake cannot load its weights")
            print("the fake cannot load its weights", flush=True)
            self.control.close()
            sys.exit(1)
        if self.mode == "stuck":
            time.sleep(600)
        if self.mode == "stubborn":  # deaf to SIGTERM from here on
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def beat(self, steps: int) -> None:
        """A heartbeat, unless this one is to be mute."""
        if self.mode != "mute":
            self.control.heartbeat(steps)

    @staticmethod
    def _mode(wanted: str, generation: str) -> str:
        mode, _, only = wanted.partition("@")
        return mode if only in ("", generation) else ""
