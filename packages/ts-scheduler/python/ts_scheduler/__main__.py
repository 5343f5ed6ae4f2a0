"""``python -m ts_scheduler CONFIG.json``: the scheduler process; see ``ts_protocol.config.SchedulerConfig``."""

import sys
import traceback
from pathlib import Path

import msgspec
from ts_protocol.config import SchedulerConfig
from ts_protocol.errors import ProtocolError
from ts_protocol.process import die_with_parent, exit_on_signals

from ts_scheduler.errors import SchedulerError
from ts_scheduler.service import service, unlink_sockets


def main(arguments: list[str]) -> int:
    """Serve until a signal (0) or an error (1) ends the process; 2 when the arguments are wrong."""
    exit_on_signals()
    if len(arguments) != 1:
        print("usage: python -m ts_scheduler CONFIG.json", file=sys.stderr)
        return 2
    return _serve(Path(arguments[0]))


def _serve(path: Path) -> int:
    try:
        config = msgspec.json.decode(path.read_bytes(), type=SchedulerConfig)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"ts_scheduler: {path}: {error}", file=sys.stderr)
        return 2
    if not die_with_parent(config.parent_pid):
        return 0
    exit_on_signals(lambda: unlink_sockets(config))
    try:
        with service(config) as running:
            running.run()
    except (ProtocolError, SchedulerError) as error:
        if config.debug:
            traceback.print_exc()
        print(f"ts_scheduler: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
