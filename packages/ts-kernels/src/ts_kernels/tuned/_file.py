"""The file of one device's measured settings: JSON that a person can read, checked when it is read."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TuningError

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """The best settings found for one kernel and shape class, with the times of them and of the default."""

    kernel: str
    dims: Mapping[str, int]
    config: Mapping[str, Any]
    us: float
    default_us: float
    triton: str
    path: Path | None = None

    @property
    def key(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """What an entry replaces: the same kernel at the same sizes."""
        return self.kernel, tuple(sorted(self.dims.items()))


def read(path: Path, device: str) -> list[Entry]:
    """Entries of ``path``, none where it does not exist. Raises ``TuningError`` that names the file and the mistake."""
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise TuningError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TuningError(f"{path}: must be an object with format {FORMAT}")
    if content.get("device") != device:
        raise TuningError(f"{path}: was measured on {content.get('device')!r}, this is {device!r}")
    entries = content.get("entries")
    if not isinstance(entries, list):
        raise TuningError(f"{path}: entries must be a list")
    return [_entry(path, place, item) for place, item in enumerate(entries)]


def _entry(path: Path, place: int, item: Any) -> Entry:
    at = f"{path}: entries[{place}]"
    if not isinstance(item, dict):
        raise TuningError(f"{at} must be an object")
    forms = {"kernel": str, "dims": dict, "config": dict, "us": (int, float), "default_us": (int, float), "triton": str}
    for name, form in forms.items():
        if not isinstance(item.get(name), form):  # type: ignore[arg-type]
            raise TuningError(f"{at}.{name} is missing or of a wrong type: {item.get(name)!r}")
    unknown = set(item) - set(forms)
    if unknown:
        raise TuningError(f"{at} has unknown fields {', '.join(sorted(unknown))}")
    for name, size in item["dims"].items():
        if type(size) is not int or size < 1:
            raise TuningError(f"{at}.dims.{name} must be a whole number from 1, got {size!r}")
    return Entry(**item, path=path)


def write(path: Path, device: str, entries: Iterable[Entry]) -> None:
    """Merge ``entries`` into ``path``: a new one replaces the old one of its kernel and sizes. Whole or not at all."""
    merged = {entry.key: entry for entry in (*read(path, device), *entries)}
    content = {
        "format": FORMAT,
        "device": device,
        "entries": [_item(merged[key]) for key in sorted(merged)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)


def _item(entry: Entry) -> dict[str, Any]:
    return {
        "kernel": entry.kernel,
        "dims": dict(entry.dims),
        "config": dict(entry.config),
        "us": round(entry.us, 2),
        "default_us": round(entry.default_us, 2),
        "triton": entry.triton,
    }
