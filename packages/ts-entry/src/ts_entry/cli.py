"""The ``ts-entry`` command: arguments to a running server, errors to one sentence and an exit code."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # nothing is imported before Ctrl-C is handled, typing included
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped. Returns the exit code: 0 stopped after serving, 1 failure, 2 wrong option, 128 + signal."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # while modules load, which is most of the first moment
        print("ts-entry: stopped", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    from ts_entry.errors import LaunchError, Stopped
    from ts_entry.options import parse

    try:
        config = parse(arguments, version=version())
        from ts_entry.launcher import launch

        return launch(config)
    except LaunchError as error:
        print(f"ts-entry: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a file that may not be read, no more processes
        print(f"ts-entry: {_sentence(error)}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print("ts-entry: stopped", file=sys.stderr)
        return stopped.exit_code


def _sentence(error: OSError) -> str:
    """What the system says, with the file that it says it about."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def version() -> str:
    """Of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("ts-entry")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
