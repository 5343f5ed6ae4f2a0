"""``ts-scheduler``: the simulator and the state diagram. The scheduler process itself is ``python -m ts_scheduler``."""

import argparse
import sys

from ts_scheduler import diagram
from ts_scheduler.simulate import command


def main() -> None:
    """Run one subcommand; exits with its code."""
    parser = argparse.ArgumentParser(prog="ts-scheduler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command.add_arguments(commands.add_parser("simulate", help="the scheduler against a model of a device"))
    states = commands.add_parser("diagram", help="the request states as a mermaid diagram")
    states.add_argument("page", nargs="*", help="bring this page's diagram up to date instead of printing it")
    arguments = parser.parse_args()
    sys.exit(command.run(arguments) if arguments.command == "simulate" else diagram.main(arguments.page))


if __name__ == "__main__":
    main()
