"""What only C++ can show: its unit tests, every reachable state of small schedulers, and what must not compile."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ts_scheduler.diagram import with_states

PACKAGE = Path(__file__).parents[2]
SNIPPETS = sorted((PACKAGE / "tests" / "misuse").glob("*.cpp"))


HEADERS = ("cache/kv_cache.h", "request/dispatch.h")


def run_compiler(*arguments: str) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.fail("the misuse tests need g++: install it (`apt install g++`)")
    includes = [f"-I{PACKAGE / 'include'}", f"-I{PACKAGE / 'src'}"]
    command = [compiler, "-std=c++20", "-Werror=unused-result", *includes, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})


@pytest.fixture(scope="module")
def precompiled(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that load the core's headers precompiled: they are most of a snippet's time."""
    folder = tmp_path_factory.mktemp("precompiled")
    header = folder / "core.h"
    header.write_text("".join(f'#include "{name}"\n' for name in HEADERS))
    ended = run_compiler("-x", "c++-header", str(header), "-o", f"{header}.gch")
    assert ended.returncode == 0, ended.stderr
    return ["-Winvalid-pch", "-include", str(header), "-fsyntax-only"]


def test_the_unit_tests_of_the_core_pass(native_tests: Path) -> None:
    ended = subprocess.run([native_tests / "cpp_tests"], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout.split()[-4]) >= 55


def test_every_reachable_state_of_small_schedulers_is_sound(native_tests: Path) -> None:
    ended = subprocess.run([native_tests / "explorer", "60"], capture_output=True, text=True, check=False, timeout=90)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "PARTLY" not in ended.stdout


@pytest.mark.nightly
def test_a_million_states_are_sound(native_tests: Path) -> None:
    ended = subprocess.run(
        [native_tests / "explorer", "7200", "nightly"], capture_output=True, text=True, check=False, timeout=7300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "PARTLY" not in ended.stdout
    assert int(ended.stdout.split()[-2]) >= 1_000_000


def test_random_events_are_taken_or_refused_by_type(native_tests: Path) -> None:
    command = [native_tests / "fuzz", "200000", str(random.randrange(10**9))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"


def test_damaged_messages_and_odd_calls_are_refused() -> None:
    command = [sys.executable, PACKAGE / "tests" / "fuzz" / "binding.py", "10000", str(random.randrange(10**9))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"


def test_the_snippets_compile_without_their_misuse(tmp_path: Path, precompiled: list[str]) -> None:
    """All at once: a snippet that fails for another reason than its misuse would prove nothing."""
    whole = tmp_path / "all.cpp"
    parts = [f"namespace {path.stem} {{\n{path.read_text()}\n}}\n" for path in SNIPPETS]
    whole.write_text("".join(parts))
    assert run_compiler(*precompiled, str(whole)).stderr == ""


@pytest.mark.parametrize("source", SNIPPETS, ids=lambda path: path.stem)
def test_misuse_does_not_compile_for_the_stated_reason(source: Path, precompiled: list[str]) -> None:
    expected = re.search(r"^// expect: (.*)$", source.read_text(), re.MULTILINE)
    assert expected is not None
    ended = run_compiler(*precompiled, "-DMISUSE", str(source))
    assert ended.returncode != 0
    errors = "\n".join(line for line in ended.stderr.splitlines() if "error:" in line)
    assert re.search(expected[1], errors), ended.stderr


def test_diagram_and_table_in_the_docs_are_the_codes() -> None:
    page = PACKAGE.parents[1] / "docs" / "scheduler.md"
    if not page.exists():
        pytest.skip("the package stands alone, without the repository's docs")
    text = page.read_text()
    assert with_states(text) == text, "run: python -m ts_scheduler.diagram docs/scheduler.md"


def test_a_stale_page_is_seen() -> None:
    page = "```mermaid\nstateDiagram-v2\n    A --> B\n```\n| state | event → next state |\n|---|---|\n| A | B |\n\nend"
    fresh = with_states(page)
    assert fresh != page
    assert fresh.endswith("|\n\nend")
    assert "LoadingFromHost --> Prefilling : TransferEnded" in fresh
    assert "| `Decoding` | PlanDecode → InFlight<Decoding, 1>; Send → SendingKv;" in fresh
    with pytest.raises(ValueError, match="no ```mermaid block"):
        with_states("nothing")
