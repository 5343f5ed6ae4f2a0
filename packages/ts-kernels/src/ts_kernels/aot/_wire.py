"""A build and its target as one line of JSON, for the compiling process."""

import json
from dataclasses import asdict
from typing import Any

from . import Build
from ._targets import Target


def pack(build: Build, target: Target) -> bytes:
    """One line. Raises ``TypeError`` for a compile-time value that is no number, text, dtype of Triton's or None."""
    fields = asdict(build)
    fields["constexprs"] = {name: _plain(name, value) for name, value in build.constexprs.items()}
    return json.dumps({"build": fields, "target": target.name}).encode() + b"\n"


def unpack(line: str | bytes) -> tuple[Build, Target]:
    """What ``pack`` made a line of."""
    found = json.loads(line)
    fields = found["build"]
    for name in ("aligned", "targets"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields["constexprs"] = {name: _value(value) for name, value in fields["constexprs"].items()}
    return Build(**fields), Target(found["target"])


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__module__.startswith("triton.") and type(value).__name__ == "dtype":
        return {"dtype": value.name}
    raise TypeError(f"{name}: a {type(value).__name__} cannot be given to the compiling process")


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    import triton.language as tl

    return tl.dtype(value["dtype"])
