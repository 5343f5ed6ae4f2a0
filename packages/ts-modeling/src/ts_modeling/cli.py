"""The command ``ts-modeling``: ends in one line at an interrupt, also while torch is being imported."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""Exit status, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    with _leaving_at_once():
        from .command import run
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print("ts-modeling: interrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _leaving_at_once() -> Iterator[None]:
    """Within it an interrupt ends the process: packages that are being imported may swallow the exception, or report it
    as another one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"ts-modeling: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
