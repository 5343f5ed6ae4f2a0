"""A family that lies in one Python file, as a port does while it is written: ``ts-modeling explain --family FILE``."""

import linecache
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
            if not _frames(path, error):
                raise  # none of the file's doing
            raise ConfigError(_told(path, error)) from error


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """An empty module for ``path``, which finds the files beside it, until both are taken back."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        yield module
    finally:
        sys.path.remove(str(path.parent))
        del sys.modules[path.stem]


def _told(path: Path, error: BaseException) -> str:
    """``error`` with the last line of ``path`` on its way, and the line that raised where that is another file's."""
    ours = isinstance(error, ModelingError)
    said = str(error) if ours else f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"--family {path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = _frames(path, error)
    if not frames:
        return f"--family {path}: {said}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    here = ours or last.filename == str(path)
    raised = "" if here else f" (raised in {_short(last.filename)}, line {last.lineno}: {last.line})"
    return f"--family {path}, line {frames[-1].lineno}: {said}{raised}"


def _frames(path: Path, error: BaseException) -> list[traceback.FrameSummary]:
    linecache.checkcache(str(path))
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]


def _short(filename: str) -> str:
    """The end of a path: the file and its folder."""
    return "/".join(Path(filename).parts[-2:])
