"""``--json FILE`` of every command: what it printed, for a program to read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .arguments import output_file


def add(parser: Any) -> None:
    """Add the option to a command's."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write it there too, as JSON")


def write(path: Path, content: Mapping[str, object]) -> None:
    """Strict JSON (RFC 8259), which has no NaN and no infinity: they become null. Raises ``OSError`` with the path."""
    text = json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"
    try:
        path.write_text(text)
    except OSError as error:  # of a full disk, which does not say where
        raise OSError(error.errno, error.strerror, str(path)) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
