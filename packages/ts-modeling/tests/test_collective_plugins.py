"""An all-reduce from another package takes the place of the usual one, and a broken one takes nothing down."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ts_modeling.communication import CollectivePlugin, CollectiveRequest, Plugins
from ts_modeling.plugins import PluginWarning
from ts_modeling.testing import write_checkpoint

WORKER = str(Path(__file__).with_name("spmd_worker.py"))
PACKAGE = '''
"""An all-reduce by gathering, fused with the norm where there is one; it notes which of the two was run."""
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ts_modeling.communication import CollectivePlugin


def make(request):
    if request.op != "sum":
        return None
    log = Path({log!r} + str(dist.get_rank()))

    def add(x):
        parts = [torch.empty_like(x) for _ in request.ranks]
        dist.all_gather(parts, x.contiguous(), group=request.group)
        return torch.stack(parts).sum(0)

    def alone(x):
        log.open("a").write("sum\\n")
        return add(x)

    def fused(x, residual):
        log.open("a").write("norm\\n")
        return request.norm.forward(add(x), residual)

    return fused if request.norm is not None else alone


plugin = CollectivePlugin(api_version={version}, make=make)
'''


def install(folder: Path, log: Path, *, version: int = 1) -> None:
    """A package with the entry point, as an installer leaves it."""
    info = folder / "gathering-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "gathering_all_reduce.py").write_text(PACKAGE.format(log=str(log), version=version))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gathering\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ts_modeling.collectives]\ngathering = gathering_all_reduce:plugin\n")


def run(checkpoint: Path, output: Path, *, site: Path | None = None) -> tuple[np.ndarray, str]:
    """Logits of two ranks, and what they said."""
    output.mkdir()
    paths = [str(site) if site else "", os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    common = [sys.executable, WORKER, str(checkpoint), str(output / "store")]
    processes = [
        subprocess.Popen(
            [*common, str(rank), "2", str(output), "attn_tp=2,moe_tp=2/plain"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    return np.stack([np.load(output / f"0-{rank}.npy") for rank in range(2)]), said[0]


def test_a_plugin_carries_every_all_reduce(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    install(tmp_path / "site", tmp_path / "log")
    usual, _ = run(tmp_path / "checkpoint", tmp_path / "usual")
    ours, said = run(tmp_path / "checkpoint", tmp_path / "ours", site=tmp_path / "site")
    np.testing.assert_allclose(ours, usual, rtol=1e-5, atol=1e-5)
    assert "failed" not in said
    steps = (tmp_path / "log0").read_text().split()
    # Four steps: the embedding's sum, two blocks a layer that end in a norm (the last layer's MLP on sampled rows).
    assert (steps.count("sum"), steps.count("norm")) == (4 * 1, 4 * 6)
    assert (tmp_path / "log1").read_text().split() == steps


def test_a_plugin_for_another_version_is_reported_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", tmp_path / "log", version=7)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.warns(PluginWarning, match=r"'gathering' .* failed: .*built for version 7, this ts-modeling has 1"):
        assert not Plugins.installed().found
    sys.modules.pop("gathering_all_reduce")


def test_the_first_plugin_that_answers_is_taken() -> None:
    request = CollectiveRequest("all_reduce", "sum", (0, 1), None, None, False)
    declines, answers = CollectivePlugin(1, lambda r: None), CollectivePlugin(1, lambda r: lambda x: x + r.ranks[1])
    made = Plugins({"a": declines, "b": answers}).make(request)
    assert made is not None
    assert made(1) == 2
    assert Plugins({"a": declines}).make(request) is None
