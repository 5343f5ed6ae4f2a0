"""A family that lies in one Python file, as a port does while it is written: ``ts-modeling explain --family FILE``."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, ModelingError
from .models.family import Family
from .registry import register, restored


@contextmanager
def family_of_file(path: Path) -> Iterator[Family[Any]]:
    """Run the user's own ``path`` as Python would, and make its ``FAMILY`` known within the block, and no longer.

    Raises ``ConfigError`` where it cannot be run or has no family, and for what its code raises within the block, with
    the line.
    """
    if not path.is_file():
        raise ConfigError(f"--family {path}: no such file; give the Python file that has the model's FAMILY")
    if path.stem in sys.modules:
        raise ConfigError(f"--family {path}: a module called {path.stem} is imported already; call the file otherwise")
    with restored(), _importable(path) as module:
        try:
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
            family = vars(module).get("FAMILY")
            if not isinstance(family, Family):
                found = f"its FAMILY is a {type(family).__name__}" if "FAMILY" in vars(module) else "it has no FAMILY"
                raise ConfigError(f"{found}; write FAMILY = Family(...), of ts_modeling.models.family")
            register(family)
        except (Exception, SystemExit) as error:
            raise ConfigError(_told(path, error)) from error
        try:
            yield family
        except ModelingError:
            raise
        except Exception as error:
            raise ConfigError(_told(path, error)) from error


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """An empty module for ``path``, which finds the files beside it, until both are taken back."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        yield module
    finally:
        sys.path[:] = before
        sys.modules.pop(path.stem, None)


def _told(path: Path, error: BaseException) -> str:
    """``error`` with the last line of ``path`` on its way, and the line that raised where that is another file's (of
    torch's, the line that called it)."""
    ours = isinstance(error, ModelingError)
    said = " ".join((str(error) if ours else f"{type(error).__name__}: {error}".rstrip(": ")).split())
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"--family {path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}torch{os.sep}" not in f.filename]
    mine = [frame.lineno for frame in frames if frame.filename == str(path)]
    here = ours or not frames or frames[-1].filename in (str(path), __file__)
    raised = "" if here else f" (raised in {_short(frames[-1].filename)}, line {frames[-1].lineno}: {frames[-1].line})"
    return f"--family {path}{f', line {mine[-1]}' if mine else ''}: {said}{raised}"


def _short(filename: str) -> str:
    """The end of a path: the file and its folder."""
    return "/".join(Path(filename).parts[-2:])
