"""Settings from the environment: the only module of this package that reads it.

TS_KERNELS_IMPL       override, as "reference" (every operation) or "mla.decode=reference,norm.rms_norm=native"
TS_KERNELS_DEBUG      1: check values too (page ids, positions, slots in range), which costs a pass over them
TS_KERNELS_KEEP_SOURCE 1: prepared weights keep the tensors they were packed from, so that the reference can run too
TS_KERNELS_PLUGINS    0: load no plugins
TS_KERNELS_TUNED      a folder whose <device>.json of measured settings goes before the one shipped here
TS_KERNELS_THREADS    threads of the native CPU kernels (default: torch.get_num_threads())
TRITON_INTERPRET      Triton's own: 1 runs its kernels in its interpreter, on the CPU
TS_KERNELS_ISA        one that the machine has ("portable", "avx2", "avx512", "avx512_bf16", "amx"), or "auto"
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import SettingsError, nearest

EVERY = "*"
PREFIX = "TS_KERNELS_"
KNOWN = frozenset(PREFIX + name for name in ("IMPL", "DEBUG", "KEEP_SOURCE", "PLUGINS", "TUNED", "THREADS", "ISA"))
MOST_THREADS = 1024  # of the native kernels


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parsed settings; ``overrides`` maps an operation's name, or ``*`` for all, to a kernel's name."""

    overrides: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False
    keep_source: bool = False
    plugins: bool = True
    tuned: Path | None = None
    threads: int | None = None
    isa: str = "auto"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read TS_KERNELS_*; raises ``SettingsError`` that names the variable, one that nothing reads too."""
        env = os.environ if environment is None else environment
        for name in sorted(env):
            if name.startswith(PREFIX) and name not in KNOWN:
                raise SettingsError(f"{name} is no setting of this package; the nearest is {nearest(name, KNOWN, 1)}")
        return cls(
            overrides=_overrides(env.get("TS_KERNELS_IMPL", "")),
            debug=_flag(env, "TS_KERNELS_DEBUG", default=False),
            keep_source=_flag(env, "TS_KERNELS_KEEP_SOURCE", default=False),
            plugins=_flag(env, "TS_KERNELS_PLUGINS", default=True),
            tuned=_folder(env.get("TS_KERNELS_TUNED", "")),
            threads=_threads(env.get("TS_KERNELS_THREADS", "")),
            isa=env.get("TS_KERNELS_ISA", "") or "auto",
        )


def _flag(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise SettingsError(f"{name} must be 0 or 1, got {text!r}")
    return default if text == "" else text == "1"


def _threads(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_THREADS:
        raise SettingsError(f"TS_KERNELS_THREADS must be a whole number from 1 to {MOST_THREADS}, got {text[:40]!r}")
    return int(text)


def _folder(text: str) -> Path | None:
    if not text:
        return None
    if not Path(text).is_dir():
        raise SettingsError(f"TS_KERNELS_TUNED must be a folder, got {text!r}")
    return Path(text)


def _overrides(text: str) -> dict[str, str]:
    overrides = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        operation, equals, kernel = item.partition("=")
        if not equals:
            operation, kernel = EVERY, item
        if not kernel.strip():
            raise SettingsError(f"TS_KERNELS_IMPL: {item!r} must be KERNEL or OPERATION=KERNEL")
        overrides[operation.strip()] = kernel.strip()
    return overrides


_current: list[Settings] = []


def current() -> Settings:
    """The process's settings, read once."""
    if not _current:
        _current.append(Settings.from_environment())
    return _current[0]


def interpret() -> bool:
    """TRITON_INTERPRET, as Triton reads it."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def environment() -> dict[str, str]:
    """A copy of the environment, for a process that is to have another one."""
    return dict(os.environ)


def cache_home() -> Path:
    """The user's folder for what can be made again (XDG base directory specification). Raises ``SettingsError``."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in some containers
        raise SettingsError("XDG_CACHE_HOME must name a folder, as this user has no home") from None
