"""Fixtures of the launcher's tests."""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from launching import BYTECODE, write_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the launcher accepts."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder of compiled modules for all launches."""
    BYTECODE[:] = [tmp_path_factory.mktemp("bytecode")]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A launch's folder for temporary files, with a path that is short enough for sockets: pytest's own may not be, and
    what is left would lie elsewhere."""
    with TemporaryDirectory(prefix="ts-launch-") as folder:
        yield Path(folder)
