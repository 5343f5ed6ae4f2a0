"""The private directory of one launch (sockets, configurations), which nobody's death leaves behind.

The launcher removes it. If the launcher is killed, a guard does: a shell that waits for the end of a pipe which only
the launcher holds. If the guard is killed too, the next launch sweeps it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

PREFIX: Final = "tokenspeed-"
OWNER: Final = "owner"
SOCKET_ROOM: Final = 40
"""Bytes that a socket's name may take behind the directory, of the 107 that a unix socket path has."""
BARE_SECONDS: Final = 60.0
_GUARD: Final = """
trap '' HUP INT TERM
read -r _
sleep 1
while read -r group; do kill -s KILL -- "-$group"; done < "$0/groups"
rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }
"""


class RunDirectory:
    """Made 0700, with a guard; ``close`` removes both."""

    def __init__(self, parent: Path | None = None) -> None:
        root = parent or _short_root()
        sweep(root)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        try:
            (self.path / OWNER).write_text(f"{os.getpid()} {_start_time(os.getpid())}")
            (self.path / "groups").touch()
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def address(self, name: str) -> str:
        """The ipc endpoint ``NAME.sock``."""
        return f"ipc://{self.path / name}.sock"

    def watch(self, groups: list[int]) -> None:
        """Process groups that the guard ends if this process is killed."""
        fresh = self.path / "groups.new"
        fresh.write_text("".join(f"{group}\n" for group in groups))
        fresh.replace(self.path / "groups")

    def close(self) -> None:
        """Remove the directory and end the guard; more than once does no harm."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        shutil.rmtree(self.path, ignore_errors=True)


def sweep(root: Path) -> list[Path]:
    """Remove the directories of launches that are gone; returns them.

    A directory without an owner's name may be somebody else's: it goes only if it is empty and older than
    ``BARE_SECONDS``, as a launch leaves it that was killed before it could write the name.
    """
    swept = []
    for path in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            found = path.stat()
            if found.st_uid != os.getuid():
                continue
            if not (path / OWNER).exists():
                if time.time() - found.st_mtime > BARE_SECONDS:
                    path.rmdir()
                    swept.append(path)
                continue
            pid, started = (path / OWNER).read_text().split()
            if _start_time(int(pid)) != started:
                shutil.rmtree(path, ignore_errors=True)
                swept.append(path)
    return swept


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot, as text: tells a process from a later one of the same id.

    ``0`` where the process is gone, ``1`` where it lives and the system does not say.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.is_file():
        return stat.read_text().rpartition(")")[2].split()[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "0"
    except PermissionError:
        return "1"
    return "0" if Path("/proc/self/stat").is_file() else "1"


def _short_root() -> Path:
    """The directory for temporary files, unless socket paths below it would be too long."""
    root = Path(tempfile.gettempdir())
    return root if len(os.fsencode(root)) + SOCKET_ROOM <= 107 else Path("/tmp")
