"""SIGINT and SIGTERM at every phase: an exception before the event loop, an event in it, nothing while cleaning up."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from ts_entry.errors import Stopped

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SAME_SECONDS: Final = 0.3
"""Signals this close together are one: ``timeout`` and ``uv run`` send theirs to the process and to its group."""


def _raise(signum: int, _: FrameType | None) -> None:
    ignore()
    raise Stopped(signum)


def ignore() -> None:
    """From here on the process is ending anyway."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def raising() -> Iterator[None]:
    """Inside, the first signal raises ``Stopped`` and later ones are ignored; what was before is put back."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum in SIGNALS:
        signal.signal(signum, _raise)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, signals wait; the first one arrives at the end. For what must not be left half done."""
    arrived: list[int] = []
    before = {signum: signal.signal(signum, lambda number, _: arrived.append(number)) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class StopRequests:
    """In the event loop: ``first`` is set by the first signal, ``second`` by the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.signum = 0
        self._loop = loop
        self._at = 0.0
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for signum in SIGNALS:
            loop.add_signal_handler(signum, self._arrived, signum)

    def _arrived(self, signum: int) -> None:
        now = self._loop.time()
        if self.first.is_set():
            if now - self._at > SAME_SECONDS:
                self.second.set()
            return
        self.signum = int(signum)
        self._at = now
        self.first.set()
