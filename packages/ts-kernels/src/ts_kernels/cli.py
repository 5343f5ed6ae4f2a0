"""``ts-kernels``: list what is registered, explain a choice, check kernels, time, tune and compile."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from . import bench_command, check_command, explain_command, goals_command, list_command, tune_command
from .aot import _command as aot_command
from .errors import KernelError, SelectionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a mistake of the caller's, 1 for a failed check).

    Interrupted, it is 130, as of a shell's command.
    """
    try:
        return _run(arguments)
    except KernelError as error:
        print(f"ts-kernels: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ts-kernels: interrupted", file=sys.stderr)
        return 130
    except (OSError, torch.OutOfMemoryError) as error:  # a full disk, a folder that is not there
        if not isinstance(error, BrokenPipeError):  # the reader has seen enough, as `head` does
            said, _, _ = str(error).partition("\n")
            print(f"ts-kernels: {said}", file=sys.stderr)
        _drop_output()
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
    finally:
        print(end="", flush=True)  # what cannot be written is said here, and not at the exit
    return status


def _drop_output() -> None:
    """What is still to be written to a place that takes no more would fail once more at the exit."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """One whose mistakes are errors like others, of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ``SelectionError``."""
        raise SelectionError(f"{' '.join(message.split())} (`{self.prog} --help` has all)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ts-kernels", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        list_command, explain_command, check_command, bench_command, goals_command, tune_command, aot_command,
    ):  # fmt: skip
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
