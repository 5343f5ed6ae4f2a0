"""Without Triton, without the native extension, without a GPU: everything imports, works or says what is missing."""

import os
import re
import subprocess
import sys

import pytest
import torch
from ts_kernels import cli

# Runs command lines where some modules cannot be found; one process for several, since importing torch takes seconds.
BLOCKED = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {blocked!r} else find(name, package)
from ts_kernels import cli
for arguments in {commands!r}:
    status = cli.main(arguments)
    print(f"\\n== {{status}}", flush=True)
"""
TRITON, NATIVE = "triton", "ts_kernels._native"


def without(blocked: list[str], *commands: str) -> list[tuple[int, str]]:
    """Status and output of each command."""
    code = BLOCKED.format(blocked=blocked, commands=[command.split() for command in commands])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    parts = re.findall(r"(.*?)\n== (\d)\n", done.stdout, re.S)
    assert len(parts) == len(commands), done.stderr
    return [(int(status), output + done.stderr) for output, status in parts]


@pytest.mark.parametrize("blocked", [[TRITON], [NATIVE], [TRITON, NATIVE]])
def test_every_command_without(blocked: list[str]) -> None:
    bench = "bench --only norm.rms_norm --budget 0.01"
    listed, explained, benched, checked, compiled = without(
        blocked, "list", "explain norm.rms_norm", bench, "check --only norm", "aot --only nothing"
    )
    assert [listed[0], explained[0], benched[0], checked[0], compiled[0]] == [0, 0, 0, int(NATIVE in blocked), 2]
    assert ("native kernels: not built" in listed[1]) == (NATIVE in blocked)
    chosen = "reference" if NATIVE in blocked else "native"
    assert f"  {chosen} (ts_kernels, band {chosen}): CHOSEN" in explained[1]
    assert "      no   the feature triton" in explained[1]
    assert f"norm.rms_norm                    {chosen} " in benched[1]
    assert ("nothing to compare: only the reference runs here" in checked[1]) == (NATIVE in blocked)
    missing = "nothing can be compiled: triton is not installed" if TRITON in blocked else "no build starts with"
    assert missing in compiled[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--device", "cuda"],
        ["check", "--graphs"],
        ["bench", "--device", "cuda"],
        ["tune", "norm.rms_norm"],
        ["explain", "norm.rms_norm", "--device", "cuda"],
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_says_so(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 2
    assert "there is no GPU here" in capsys.readouterr().err
