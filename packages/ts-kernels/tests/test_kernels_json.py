"""``--json FILE`` of the command line: what the words say, in strict JSON."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor
from ts_kernels import cli, goals, output, platform
from ts_kernels.registry import REGISTRY, Band, KernelSpec
from ts_kernels.selection import OPERATIONS


def strict(path: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.json"
    assert cli.main(["list", "--json", str(file)]) == 0
    found, said = strict(file), capsys.readouterr().out
    native = platform.instruction_sets()
    assert found["native"]["usable"] == list(native.usable)
    assert found["native"]["in_use"] == native.in_use
    assert [one["name"] for one in found["operations"]] == sorted(OPERATIONS)
    by_name = {one["name"]: one for one in found["operations"]}
    decode = by_name["mla.decode"]
    assert decode["dtypes"] == ["q", "cache", "weight"]
    assert decode["dims"] == ["H", "N", "R", "V", "L", "page_size", "q_len"]
    assert decode["limits"] == ["q_len at most 8"]
    assert f"mla.decode: {decode['summary']}\n" in said
    kernels = {kernel["name"]: kernel for kernel in decode["kernels"]}
    assert [kernel["name"] for kernel in decode["kernels"]] == [s.name for s in REGISTRY.kernels("mla.decode")]
    assert kernels["native"] == {
        "name": "native", "band": "native", "needs": "cpu native", "formats": ["dense+packed", "packed"],
        "origin": "ts_kernels",
    }  # fmt: skip


def test_explain(tmp_path: Path) -> None:
    file = tmp_path / "explain.json"
    asked = ["explain", "norm.rms_norm", "--arch", "sm_90", "--shape", "D=100", "--json", str(file)]
    assert cli.main([*asked, "--impl", "reference"]) == 0
    found = strict(file)
    assert found["query"] == {
        "operation": "norm.rms_norm", "device": "cuda", "arch": "sm_90", "format": "dense", "dims": {"D": 100},
        "dtypes": {"x": "bfloat16", "weight": "bfloat16"},
    }  # fmt: skip
    assert (found["winner"], found["override"]) == ("reference", "reference")
    verdicts = {one["name"]: one["verdicts"] for one in found["candidates"]}
    assert verdicts["native"][0] == {
        "need": "device cpu", "objection": "needs device cpu, tensors are on cuda",
    }  # fmt: skip
    assert {"need": "weights as dense", "objection": None} in verdicts["native"]
    assert cli.main([*asked, "--dtype", "x=int32"]) == 1
    assert (strict(file)["winner"], strict(file)["override"]) == (None, None)


def test_check(tmp_path: Path, native: None) -> None:
    def broken(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        raise RuntimeError("no memory")

    file = tmp_path / "check.json"
    REGISTRY.register(
        KernelSpec(operation="norm.rms_norm", name="broken", band=Band.REFERENCE, load=lambda: broken, origin="test")
    )
    try:
        assert cli.main(["check", "--only", "norm.rms_norm", "--json", str(file)]) == 1
    finally:
        REGISTRY.remove("norm.rms_norm", "broken")
    found = strict(file)
    assert found["device"] == "cpu"
    fine, failed = ([one for one in found["outcomes"] if one["passed"] is verdict] for verdict in (True, False))
    assert [one["kernel"] for one in failed] == ["broken", "broken"]
    assert failed[0] == {
        "operation": "norm.rms_norm", "variant": "", "kernel": "broken", "isa": "-", "dtype": "float32", "error": None,
        "passed": False, "failure": "RuntimeError: no memory",
    }  # fmt: skip
    assert {one["isa"] for one in fine} >= {"portable"}
    assert all(0 <= one["error"] < 0.01 for one in fine)


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    figure = goals.Figure("a", "b", "c", "-", math.inf, 1.0, 1, 1, "", False, "RuntimeError")
    output.write(tmp_path / "x", {"figures": [figure.as_json()], "nan": (math.nan, 1.5)})
    found = strict(tmp_path / "x")
    assert found["figures"][0]["us"] is None
    assert found["nan"] == [None, 1.5]


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "norm.rms_norm", "--json", "/dev/full"]) == 1
    said = capsys.readouterr()
    assert said.err == "ts-kernels: [Errno 28] No space left on device: '/dev/full'\n"
    assert "CHOSEN" in said.out


def test_there_is_no_room_for_a_device_that_is_full(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr("ts_kernels.checking.run", full)
    assert cli.main(["check", "--only", "norm"]) == 1
    assert capsys.readouterr().err == "ts-kernels: CUDA out of memory.\n"
