"""The porting guide's code runs, and prints what the guide says."""

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ts_modeling import ConfigError, registry

GUIDE = Path(__file__).parents[3] / "docs" / "modeling" / "porting.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
SCRIPTS = ("olmo2.py", "swapped.py", "two.py")
Told = tuple[dict[str, Any], list[tuple[str, str]]]


def script(name: str) -> str:
    """All blocks that begin with the script's name."""
    return "\n".join(body for kind, body in BLOCKS if kind == "python" and body.startswith(f"# {name}\n"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the guide's scripts lie and can be imported from, until what they registered is taken back."""
    out = tmp_path_factory.mktemp("guide")
    for name in SCRIPTS:
        (out / name).write_text(script(name))
    families, architectures = list(registry.FAMILIES), dict(registry.ARCHITECTURES)
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))
    sys.modules.pop("olmo2", None)
    registry.FAMILIES[:] = families
    registry.ARCHITECTURES.clear()
    registry.ARCHITECTURES.update(architectures)


@pytest.fixture(scope="module")
def told(folder: Path) -> Told:
    """Names that the other blocks leave behind, and what each printed beside what the guide shows after it."""
    capture = pytest.MonkeyPatch()
    names: dict[str, Any] = {"__name__": "guide"}
    pairs: list[tuple[str, str]] = []
    printed: list[str] = []
    capture.setattr(tempfile, "tempdir", str(folder))
    for stream in ("stdout", "stderr"):
        capture.setattr(sys, stream, Written(printed))
    try:
        for kind, body in BLOCKS:
            if kind == "python" and not body.startswith(tuple(f"# {name}\n" for name in SCRIPTS)):
                printed.clear()
                exec(compile(body, str(GUIDE), "exec"), names)
            elif kind == "sh" and body.startswith("ts-modeling "):
                printed[:] = [said(folder, "ts_modeling.cli", body.replace("FOLDER", str(names["FOLDER"])))]
            elif kind == "":
                pairs.append((body, "".join(printed)))
    finally:
        capture.undo()
    return names, pairs


def said(folder: Path, module: str, line: str) -> str:
    """What a command of the guide prints where its scripts lie; one with no errors, or nothing else."""
    started = [sys.executable, "-m", module, *line.split()[1:]]
    done = subprocess.run(started, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert bool(done.returncode) == bool(done.stderr)
    assert not (done.stdout and done.stderr)
    return done.stdout + done.stderr


class Written:
    """A stream that keeps what is written to it."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return False


def test_the_guide_shows_what_its_code_prints(told: Told) -> None:
    _, pairs = told
    assert len(pairs) == 4
    for shown, printed in pairs:
        assert shown in printed


def test_the_ported_model_refuses_by_name(told: Told) -> None:
    names, _ = told
    for field, value in (("hidden_act", "gelu"), ("rope_parameters", {"partial_rotary_factor": 0.5})):
        with pytest.raises(ConfigError, match=rf"config.json: {field}.* is not supported"):
            registry.config_from({**names["raw"], field: value})


def test_another_process_knows_the_installed_package(folder: Path, told: Told) -> None:
    """Beside the guide's script, what an installer would leave of its entry point."""
    (entry,) = (body for kind, body in BLOCKS if kind == "toml")
    info = folder / "olmo2-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: olmo2\nVersion: 1.0\n")
    group, points = re.findall(r'^\[project\.entry-points\."(.*)"\]\n(.*)$', entry, re.DOTALL)[0]
    (info / "entry_points.txt").write_text(f"[{group}]\n{points.replace(chr(34), '')}")
    command = [sys.executable, "-m", "ts_modeling.cli", "explain", "--model", str(told[0]["FOLDER"])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "attention.sums" in done.stdout


def test_two_processes_equal_one(folder: Path, told: Told) -> None:
    """The guide's last script, started as the guide says."""
    checkpoint = str(told[0]["FOLDER"])
    (command,) = (body for kind, body in BLOCKS if kind == "sh" and body.startswith("torchrun "))
    words = command.replace("FOLDER", checkpoint).split()[1:]
    started = [sys.executable, "-m", "torch.distributed.run", *words]
    done = subprocess.run(started, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert f"rank {rank} equals one process" in done.stdout


def test_what_is_registered_must_be_its_own(folder: Path) -> None:
    olmo2 = importlib.import_module("olmo2")
    registry.register(olmo2.FAMILY)  # the same again is fine
    assert registry.FAMILIES.count(olmo2.FAMILY) == 1
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM are another family's"):
        registry.register(replace(olmo2.FAMILY, architectures=("Qwen3ForCausalLM",)))
    with pytest.raises(ConfigError, match="Olmo2Config is another family's"):
        registry.register(replace(olmo2.FAMILY, architectures=("Olmo9ForCausalLM",)))
