"""Compiles builds for targets, two at a time, each in a process; keeps results by a hash of what they are made of."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import ops, platform, settings
from ..errors import BuildError
from ..tuning import triton_version
from . import Build
from ._figures import Figures
from ._process import Compiler
from ._targets import Target

WORKERS = 2
OPS = Path(ops.__path__[0])


@dataclass(frozen=True)
class Result:
    """One build on one target: its figures, or the error of the compiler; and what is wrong with it, if anything."""

    build: Build
    target: Target
    figures: Figures | None
    error: str | None

    @property
    def problems(self) -> list[str]:
        """Why this build must not pass: it does not compile, spills too much, or has no room."""
        if self.figures is None:
            return [f"does not compile: {self.error}"]
        found = []
        allowed = self.build.spill_allowance(self.target.name)
        if self.figures.spills > allowed:
            found.append(f"spills {self.figures.spills} bytes a thread, {allowed} allowed")
        if self.figures.shared > self.target.shared_limit:
            found.append(f"takes {self.figures.shared} bytes of shared memory, {self.target.shared_limit} there are")
        return found

    def as_json(self) -> dict[str, Any]:
        """Names, figures and problems."""
        figures = {} if self.figures is None else asdict(self.figures)
        launch = {"num_warps": self.build.num_warps, "num_stages": self.build.num_stages}
        return {"build": self.build.name, "target": self.target.name, **launch, **figures, "problems": self.problems}


def run(builds: Sequence[Build], targets: Sequence[Target], cache: Path | None = None) -> Iterator[Result]:
    """Results as they come; those kept in ``cache`` (see ``cache_folder``) are not made again.

    Raises ``BuildError`` where Triton is not installed.
    """
    require_triton()
    stamp = _stamp()
    compilers = threading.local()
    started: list[Compiler] = []

    def make(build: Build, target: Target) -> Result:
        kept = _place(cache, build, target, stamp)
        known = _kept(kept)
        if known is not None:
            return Result(build, target, known, None)
        if not hasattr(compilers, "mine"):
            compilers.mine = Compiler()
            started.append(compilers.mine)
        answer = compilers.mine.ask(build, target)
        figures = None if "error" in answer else Figures(**answer)
        if figures is not None and kept is not None:
            _keep(kept, figures)
        return Result(build, target, figures, answer.get("error"))

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            wanted = [(b, t) for b in builds for t in targets if not b.targets or t.name in b.targets]
            for future in as_completed([pool.submit(make, build, target) for build, target in wanted]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # a reader that stops early leaves nothing running for long
            for compiler in started:
                compiler.close()


def require_triton() -> None:
    """Raises ``BuildError`` where Triton is not installed."""
    if platform.triton_error() is not None:
        raise BuildError(f"nothing can be compiled: {platform.triton_error()}")


def cache_folder() -> Path:
    """Where results are kept: below XDG_CACHE_HOME or ~/.cache."""
    return settings.cache_home() / "ts_kernels" / "aot"


def _stamp() -> str:
    """A hash of the compiler's version, of every source that a kernel could be made of, and of what reads figures."""
    digest = hashlib.sha256(triton_version().encode())
    for folder in (OPS, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            if "triton" in path.relative_to(folder).as_posix() or path.name.startswith("_"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _place(cache: Path | None, build: Build, target: Target, stamp: str) -> Path | None:
    """The file that keeps this result; None for a kernel of another package, whose sources are not in the hash."""
    family = build.kernel.partition(":")[0].partition(".")[0]
    if cache is None or not (OPS / family).exists():
        return None
    return cache / f"{hashlib.sha256(f'{stamp} {target.name} {build!r}'.encode()).hexdigest()[:32]}.json"


def _kept(path: Path | None) -> Figures | None:
    if path is None or not path.exists():
        return None
    try:
        return Figures(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None  # of another version: compile again


def _keep(path: Path, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    aside.write_text(json.dumps(figures.as_json()))
    aside.replace(path)
