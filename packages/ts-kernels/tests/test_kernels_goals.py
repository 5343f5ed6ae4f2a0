"""The calls that a GPU is judged by, tried in little on the CPU; and what their figures say."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ts_kernels import cli, goals
from ts_kernels.benching import Floor
from ts_kernels.registry import REGISTRY, Band, KernelSpec

CPU = torch.device("cpu")


def test_every_line_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "goals.json"
    assert cli.main(["goals", "--device", "cpu", "--budget", "0.001", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    figures = json.loads(file.read_text())["figures"]
    labels = [figure["label"] for figure in figures]
    assert len(set(labels)) == 2 * 2 + 1 + 2 + 5
    assert all(label in said for label in labels)
    assert {figure["operation"] for figure in figures} == {
        "mla.decode_absorbed", "mla.prefill", "moe.experts", "norm.add_rms_norm", "kv_cache.write_latent",
        "rope.apply_interleaved", "activation.silu_mul", "attention.merge",
    }  # fmt: skip
    for figure in figures:
        assert figure["percent_of_floor"] == pytest.approx(100 * figure["floor_us"] / figure["us"])
        assert 0 < figure["us"] < 1e6


def test_what_the_full_lines_must_move() -> None:
    """By hand, for one GPU of four: what an H200 reads in the least time that its goals are set by."""
    floor, sizes = Floor(read=4.3e12, product=790e12, dtype="bfloat16"), goals.KIMI
    entry = sizes.latent + sizes.rope
    keys = 16 * sizes.context * entry
    assert floor.us(2 * keys, None) == pytest.approx(351, abs=1)
    assert floor.us(keys, None) == pytest.approx(176, abs=1)
    tiny = {line.label: line for line in goals.lines(goals.TINY, CPU, torch.float32)}
    line = tiny["MLA decode, bf16 cache, 80 keys, 2 x 1"]
    assert line.bytes == 2 * 80 * 80 * 2 + 2 * 2 * (64 + 64 + 16) * 4
    assert line.flops == 2 * 2 * 2 * 80 * (80 + 64)
    line = tiny["MLA prefill, 20 after 64"]
    assert line.flops == 2 * 2 * (48 + 32) * sum(range(65, 85))
    (line,) = (found for label, found in tiny.items() if label.startswith("W4A16 experts, 20 tokens"))
    assert line.flops == 20 * 2 * 2 * (2 * 32 * 64 + 64 * 32)


@pytest.fixture
def broken() -> Iterator[None]:
    def kernel(*arguments: object) -> None:
        raise RuntimeError("illegal memory access\nmore")

    spec = KernelSpec(
        operation="attention.merge", name="broken", band=Band.UNPROVEN, load=lambda: kernel, origin="test"
    )
    REGISTRY.register(spec)
    yield
    REGISTRY.remove("attention.merge", "broken")


def test_kernels_beside_ours_are_timed_and_fail_alone(broken: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["goals", "--device", "cpu", "--budget", "0.001"]) == 1
    said = capsys.readouterr().out
    assert "broken     FAILED RuntimeError: illegal memory access\n" in said
    assert said.endswith("the goals are a GPU's, 1 failed\n")


def test_a_goal_is_met_or_missed() -> None:
    def nothing(impl: str | None) -> None:
        pass

    slow = goals.Line("", "", nothing, bytes=0, flops=0, times=1.2)
    assert slow.met(us=11.9, floor_us=10.0)
    assert not slow.met(us=12.1, floor_us=10.0)
    fast = goals.Line("", "", nothing, bytes=0, flops=10**9, tflops=500.0)
    assert fast.met(us=1.9, floor_us=0.0)
    assert not fast.met(us=2.1, floor_us=0.0)
    figure = goals.Figure("call", "op", "triton", "graph", 20.0, 10.0, 10**8, 10**9, fast.goal, False)
    assert str(figure).endswith("50% of the floor  5.000 TB/s   50.00 TFLOP/s  500 TFLOP/s or more: MISSED")


def test_what_cannot_be_captured_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recording:
        def __init__(self, call: Callable[[], object]) -> None:
            call()

        def launch(self) -> str:
            return "launched as a graph"

    def plans() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(goals, "CudaRecording", Recording)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    gpu = torch.device("cuda")
    call, how = goals._launch(lambda: None, gpu)
    assert (call(), how) == ("launched as a graph", "graph")
    assert goals._launch(plans, gpu) == (plans, "launched")
    assert goals._launch(plans, CPU) == (plans, "launched")
