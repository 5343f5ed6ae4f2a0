"""Builds the C++ tests once a run; where nothing has changed, that takes no time."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # scheduler_toy


@pytest.fixture(scope="session")
def native_tests() -> Path:
    """The folder with ``cpp_tests`` and ``explorer``, built from the sources as they are."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.fail("the C++ tests need cmake and a C++20 compiler: install them (`apt install cmake g++`)")
    for command in ([cmake, "--preset", "tests"], [cmake, "--build", "--preset", "tests"]):
        ended = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            pytest.fail(f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}")
    return PACKAGE / "build" / "tests"
