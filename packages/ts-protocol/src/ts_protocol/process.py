"""What every child process does first: end when its parent does, and end on SIGTERM and SIGINT."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent_pid: int = 0) -> bool:
    """Have the kernel send SIGTERM to this process when its parent ends (Linux; elsewhere does nothing).

    ``parent_pid`` is the parent as the launcher knows it; 0 takes the one at the call. The kernel watches the parent's
    *thread* that started this process (prctl(2)): launch children from a thread that lives as long as they should.

    Returns False when the parent is gone already, in which case the caller should exit.
    """
    expected = parent_pid or os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    return os.getppid() == expected


def exit_on_signals(last: Callable[[], None] = lambda: None) -> None:
    """End this process at once, with exit code 0, on SIGTERM and SIGINT; ``last`` runs before that and must be short.

    Not by an exception: one that is raised between any two instructions can be swallowed by a library on its way, or
    leave a lock held that the unwinding then waits for. Calling it again replaces ``last``.
    """

    def leave(_: int, __: FrameType | None) -> None:
        try:
            last()
        finally:
            os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
