"""The command line, generated from ``ServeConfig``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from ts_entry.config import FIELDS, GROUPS, REFUSED, Field, ServeConfig, build, read_file, refuse, suggestion
from ts_entry.errors import UsageError

EPILOG: Final = """\
ts-entry --model kimi-k2.5                      serve on http://127.0.0.1:8000
ts-entry ./Kimi-K2.5 --host 0.0.0.0 --api-key K a folder, for the network

Data and pipeline parallelism, speculation and other quantizations are known and refused
with a reason. Exit codes: 0 stopped after serving, 1 failure, 2 wrong option, 130/143 stopped before."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


class _Help(argparse.RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return "--[no-]" + action.option_strings[0].removeprefix("--")
        return super()._format_action_invocation(action)


def parse(arguments: Sequence[str], *, version: str) -> ServeConfig:
    """The configuration that a command line asks for; it wins over the file that it names with ``--config``.

    Raises:
        UsageError: an option is unknown, refused, lacks its value or has a wrong one.
        SystemExit: ``--help`` and ``--version``, after printing.
    """
    given, rest = parser(version).parse_known_args(list(arguments))
    if rest:
        raise UsageError(_unknown(rest[0]))
    typed: dict[str, Any] = vars(given)
    file = typed.pop("config", None)
    positional = typed.pop("positional", None)
    if positional is not None:
        if typed.get("model", positional) != positional:
            raise UsageError(f"two models given: {positional} and --model {typed['model']}")
        typed["model"] = positional
    for option in REFUSED:
        name = _name_of(option.flags[0])
        if name in typed:
            refuse(option.flags[0], typed.pop(name))
    return build({**(read_file(Path(file)) if file else {}), **typed})


def parser(version: str) -> argparse.ArgumentParser:
    """The parser; values stay text, which ``config.build`` checks, whether typed or from a file."""
    made = _Parser(
        prog="ts-entry",
        usage="ts-entry [--model] MODEL [options]",
        description="Serve a language model over an OpenAI-compatible HTTP API.",
        epilog=EPILOG,
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: _Help(prog, max_help_position=34, width=118),
    )
    made.add_argument("positional", nargs="?", help=argparse.SUPPRESS)
    for group, title in GROUPS.items():
        section = made.add_argument_group(title)
        for field in FIELDS.values():
            if field.group == group:
                _add(section, field)
        if group == "server":
            section.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=CONFIG_HELP)
            section.add_argument("--version", action="version", version=f"ts-entry {version}", help="print it and exit")
            section.add_argument("-h", "--help", action="help", help="show this and exit")
    for option in REFUSED:
        extra: dict[str, Any] = {"action": "store_true"} if option.is_switch else {}
        made.add_argument(*option.flags, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **extra)
    return made


CONFIG_HELP: Final = "TOML or JSON file with these options as keys; the command line wins"


def _add(section: argparse._ArgumentGroup, field: Field) -> None:
    text = field.description.replace("%", "%%")
    if field.kind is bool:
        text += f" (default: {'yes' if field.default else 'no'})"
        section.add_argument(
            field.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text, dest=field.name
        )
        return
    if field.default not in (None, 0):
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        text += f" (default: {default})"
    metavar = field.metavar or ("|".join(field.choices) if field.choices else "N" if field.kind is int else "NAME")
    flags = [field.flag] if field.alias is None else [field.flag, field.alias]
    section.add_argument(*flags, dest=field.name, metavar=metavar, default=argparse.SUPPRESS, help=text)


def _name_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument}: one model is served at a time"
    flag = argument.partition("=")[0]
    known = [flag for field in FIELDS.values() for flag in (field.flag, field.alias) if flag] + [
        flag for option in REFUSED for flag in option.flags
    ]
    return f"unknown option {flag}{suggestion(flag, [*known, '--config', '--version', '--help'])}; see ts-entry --help"
