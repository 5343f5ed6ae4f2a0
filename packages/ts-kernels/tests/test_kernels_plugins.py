"""Plugins: versions, failures, the example package, and FlashInfer's with a module that records its calls."""

import math
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import errors, mla, norm, plugins, settings
from ts_kernels.platform import described
from ts_kernels.plugins import API_VERSION, Plugin, Registrar
from ts_kernels.registry import REGISTRY, Band, Capability, KernelSpec
from ts_kernels.selection import OPERATIONS, explain
from ts_kernels.vendor import flashinfer

OPERATION = "norm.rms_norm"
EXAMPLE = Path(__file__).parent / "plugin_example"
X, W = torch.ones(2, 8), torch.ones(8)


def spec(name: str, **changes: Any) -> KernelSpec:
    values = {"operation": OPERATION, "band": Band.VENDOR, "load": lambda: lambda x, weight, eps: x * 0 + 7}
    return KernelSpec(name=name, **{**values, **changes})


def register_good(registrar: Registrar) -> None:
    registrar.register(spec("plugged"))


def register_half(registrar: Registrar) -> None:
    registrar.register(spec("half"))
    raise OSError("no such library: libfast.so")


def register_taken(registrar: Registrar) -> None:
    registrar.register(spec("half"))
    registrar.register(spec("reference"))


def raising() -> Any:
    raise ImportError("libfast.so")


PLUGINS = {
    "good": Plugin(API_VERSION, register_good),
    "half": Plugin(API_VERSION, register_half),
    "taken": Plugin(API_VERSION, register_taken),
    "old": Plugin(API_VERSION - 1, register_good),
    "new": Plugin(API_VERSION + 1, register_good),
    "function": register_good,
    "late": Plugin(API_VERSION, lambda registrar: registrar.register(spec("late", load=raising))),
    "elsewhere": Plugin(API_VERSION, lambda registrar: registrar.register(spec("e", operation="norm.nothing"))),
}


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """``plug("a", "b")`` loads just these and gives the warnings; what they registered is removed again."""
    before = {name: {s.name for s in REGISTRY.kernels(name)} for name in OPERATIONS}

    def run(*names: str) -> list[str]:
        entries = [EntryPoint(name, f"fake_{name}:plugin", plugins.GROUP) for name in names]
        monkeypatch.setattr(plugins, "_entries", lambda: entries)
        monkeypatch.setattr(EntryPoint, "load", lambda self: PLUGINS[self.name])
        monkeypatch.setitem(plugins._state, "loaded", False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plugins.load_all()
            plugins.load_all()  # once per process: no second warning
        assert all(issubclass(w.category, plugins.PluginWarning) for w in caught)
        return [str(w.message) for w in caught]

    yield run
    for name, known in before.items():
        for s in REGISTRY.kernels(name):
            if s.name not in known:
                REGISTRY.remove(name, s.name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", "plugin 'half' (fake_half:plugin) failed: OSError: no such library: libfast.so"),
        ("taken", "has a kernel 'reference' already, from ts_kernels; rename the one from taken"),
        ("old", "it was built for version 0 of the plugin interface, this ts-kernels has 1: update the plugin"),
        ("new", "it was built for version 2 of the plugin interface, this ts-kernels has 1: update ts-kernels"),
        ("function", "it must be a ts_kernels.plugins.Plugin, is function"),
        ("elsewhere", "no operation 'norm.nothing'"),
    ],
)
def test_a_plugin_fails_alone_and_loudly(plug: Callable[..., list[str]], name: str, message: str) -> None:
    before = {s.name for s in REGISTRY.kernels(OPERATION)}
    (said,) = plug(name)
    assert message in said
    assert f"plugin '{name}' (fake_{name}:plugin) failed" in said
    assert {s.name for s in REGISTRY.kernels(OPERATION)} == before, "nothing of it is registered"
    assert norm.rms_norm(X, W, 0.0).eq(1).all()


def test_the_others_still_load(plug: Callable[..., list[str]]) -> None:
    assert len(plug("half", "good", "new")) == 2
    assert norm.rms_norm(X, W, 0.0).eq(7).all()
    (found,) = [s for s in REGISTRY.kernels(OPERATION) if s.name == "plugged"]
    assert found.origin == "good", "kernels are marked as their plugin's"


def test_a_kernel_that_cannot_be_imported_is_left_out(plug: Callable[..., list[str]]) -> None:
    assert plug("late") == []
    with pytest.raises(errors.PluginError, match=r"kernel 'late' of norm\.rms_norm, from plugin 'late', did not load"):
        norm.rms_norm(X, W, 0.0, impl="late")
    with pytest.warns(plugins.PluginWarning, match=r"did not load: ImportError: libfast\.so; another one serves"):
        assert norm.rms_norm(X, W, 0.0).eq(1).all()
    assert norm.rms_norm(X, W, 0.0).eq(1).all()


def test_plugins_can_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_current", [settings.Settings(plugins=False)])
    monkeypatch.setattr(plugins, "_entries", lambda: pytest.fail("looked for plugins"))
    monkeypatch.setitem(plugins._state, "loaded", False)
    plugins.load_all()


def install(folder: Path, *, api_version: int | None = None) -> dict[str, str]:
    """Put the example package and its metadata into ``folder``, as an installer would; gives the environment."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    package = folder / "ts_kernels_example"
    package.mkdir()
    for source in (EXAMPLE / "src" / "ts_kernels_example").glob("*.py"):
        text = source.read_text()
        if api_version is not None:
            text = text.replace("api_version=1", f"api_version={api_version}")
        (package / source.name).write_text(text)
    meta = folder / f"ts_kernels_example-{project['version']}.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"][plugins.GROUP].items()]
    (meta / "entry_points.txt").write_text("\n".join([f"[{plugins.GROUP}]", *lines, ""]))
    return {**os.environ, "PYTHONPATH": str(folder), "TRITON_INTERPRET": "0"}


CALL = """
import sys, torch
from ts_kernels import norm
assert "ts_kernels_example" not in sys.modules, "plugins load at the first selection"
x, w = torch.randn(3, 64), torch.randn(64)
norm.rms_norm(torch.randn(3, 60), w[:60], 1e-5)
assert "ts_kernels_example" in sys.modules
assert "ts_kernels_example.kernels" not in sys.modules, "kernels load when they are chosen"
torch.testing.assert_close(norm.rms_norm(x, w, 1e-5), norm.rms_norm(x, w, 1e-5, impl="reference"))
print("ts_kernels_example.kernels" in sys.modules)
"""


def python(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_example_serves(tmp_path: Path) -> None:
    environment = install(tmp_path)
    done = python(environment, "-W", "error", "-c", CALL)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    told = python(environment, "-m", "ts_kernels.cli", "explain", OPERATION, "--shape", "D=100").stdout
    assert "example (example, band vendor): cannot: needs D a multiple of 64, given D=100" in told
    assert "      no   D a multiple of 64" in told
    assert "      yes  device cpu" in told


def test_the_example_of_another_version_does_not(tmp_path: Path) -> None:
    done = python(install(tmp_path, api_version=9), "-c", CALL)
    assert "PluginWarning: plugin 'example' (ts_kernels_example:plugin) failed" in done.stderr
    assert "it was built for version 9 of the plugin interface" in done.stderr
    assert done.stdout == "False\n"


def test_flashinfer_is_absent_without_harm() -> None:
    if plugins.installed("flashinfer"):
        pytest.skip("FlashInfer is installed")
    plugins.load_all()
    assert not [s for name in OPERATIONS for s in REGISTRY.kernels(name) if s.name == flashinfer.NAME]


class Recorder:
    """Stands for FlashInfer: computes what it would on a CPU, and keeps how it was called."""

    def __init__(self) -> None:
        self.planned: tuple[Any, ...] = ()
        self.ran: tuple[Any, ...] = ()
        self.norm, self.activation, self.mla = (ModuleType(f"flashinfer.{n}") for n in ("norm", "activation", "mla"))
        self.norm.rmsnorm = lambda x, w, eps: norm.rms_norm(x, w, eps, impl="reference")  # type: ignore[attr-defined]
        self.norm.fused_add_rmsnorm = self.fused  # type: ignore[attr-defined]
        self.mla.BatchMLAPagedAttentionWrapper = lambda workspace: self  # type: ignore[attr-defined]

    def fused(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> None:
        residual.add_(x)
        x.copy_(norm.rms_norm(residual, weight, eps, impl="reference"))

    def plan(self, *arguments: Any) -> None:
        self.planned = arguments

    def run(self, q_nope: Tensor, q_pe: Tensor, ckv: Tensor, kpe: Tensor, return_lse: bool) -> tuple[Tensor, Tensor]:
        """Latent attention as their documentation defines it, by the index arrays of the plan."""
        self.ran = (q_nope, q_pe, ckv, kpe)
        bounds, starts, indices, lengths, *_, page_size, causal, scale, _, _ = self.planned
        out, lse = torch.full_like(q_nope, torch.nan), torch.full(q_nope.shape[:2], torch.nan)
        assert return_lse
        for row, length in enumerate(lengths.tolist()):
            pages = indices[starts[row] : starts[row + 1]].long()
            assert len(pages) == -(-length // page_size)
            k, r = (part[pages].flatten(0, 1)[:length].float() for part in (ckv, kpe))
            for token in range(bounds[row], bounds[row + 1]):
                seen = length - (bounds[row + 1] - 1 - token) if causal else length
                scores = (q_nope[token].float() @ k[:seen].t() + q_pe[token].float() @ r[:seen].t()) * scale
                out[token] = (scores.softmax(-1) @ k[:seen]).to(out.dtype)
                lse[token] = scores.logsumexp(-1) / math.log(2)
        return out, lse


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, plug: Callable[..., list[str]]) -> Recorder:
    """A FlashInfer that records, registered as the plugin does but for the device."""
    recorder = Recorder()
    for name in ("norm", "activation", "mla"):
        monkeypatch.setitem(sys.modules, f"flashinfer.{name}", getattr(recorder, name))
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setattr(flashinfer, "installed", lambda package: True)
    monkeypatch.setattr(flashinfer, "_GPU", Capability())
    flashinfer._wrapper.cache_clear()
    monkeypatch.setitem(PLUGINS, "flashinfer", flashinfer.plugin)
    assert plug("flashinfer") == []
    return recorder


def test_flashinfer_norms_and_activation(fake: Recorder, assert_close: Callable[..., None]) -> None:
    x, weight = torch.randn(3, 64).bfloat16(), torch.randn(64).bfloat16()
    assert_close(norm.rms_norm(x, weight, 1e-5, impl="flashinfer"), norm.rms_norm(x, weight, 1e-5, impl="reference"))
    residual, kept = torch.randn(3, 64).bfloat16(), x.clone()
    want = norm.add_rms_norm(x, residual.clone(), weight, 1e-5, impl="reference")
    have = norm.add_rms_norm(x, residual, weight, 1e-5, impl="flashinfer")
    assert_close(have[0], want[0])
    assert_close(residual, want[1])
    assert torch.equal(x, kept), "the argument is left alone, unlike theirs"
    with pytest.raises(errors.NoKernelError, match="x must be bfloat16, is float32"):
        norm.rms_norm(X, W, 1e-5, impl="flashinfer")


@pytest.mark.parametrize("q_len", [1, 3])
def test_flashinfer_mla_gets_the_pages_and_the_absorbed_queries(
    fake: Recorder, assert_close: Callable[..., None], q_len: int
) -> None:
    heads, rope, latent, page_size, lengths = 4, 64, 512, 16, [37, 0, 16, 3]
    cache = torch.full((12, page_size, latent + rope), torch.nan, dtype=torch.bfloat16)
    tables = torch.randperm(12)[:12].view(4, 3).int()
    for row, length in enumerate(lengths):
        entries = cache[tables[row].long()].flatten(0, 1)
        entries[:length] = torch.randn(length, latent + rope).bfloat16()
        cache[tables[row].long()] = entries.view(3, page_size, -1)
    queries = torch.randn(4 * q_len, heads, latent + rope).bfloat16().split([latent, rope], -1)
    sizes = torch.tensor(lengths, dtype=torch.int32)
    common = {"q_len": q_len, "return_lse": True}
    want = mla.decode_absorbed(*queries, cache, tables, sizes, 0.05, impl="reference", **common)
    have = mla.decode_absorbed(*queries, cache, tables, sizes, 0.05, impl="flashinfer", **common)
    assert_close(have[0], want[0])
    assert have[1].isneginf().any(1).tolist() == want[1].isneginf().any(1).tolist()
    assert_close(have[1].nan_to_num(neginf=0), want[1].nan_to_num(neginf=0), torch.bfloat16)
    assert fake.planned[0].tolist() == [0, q_len, 2 * q_len, 3 * q_len, 4 * q_len]
    assert fake.planned[1].tolist() == [0, 3, 3, 4, 5]
    assert fake.planned[4:10] == (heads, latent, rope, page_size, q_len > 1, 0.05)
    assert fake.planned[10:] == (torch.bfloat16, torch.bfloat16)
    assert all(t.dtype == torch.int32 for t in fake.planned[:4])
    assert [t.shape[-1] for t in fake.ran] == [latent, rope, latent, rope]
    assert not have[0][q_len : 2 * q_len].any()


def test_flashinfer_serves_only_where_it_is_asked_for(fake: Recorder) -> None:
    operation = OPERATIONS[OPERATION]
    bf16 = (torch.bfloat16, torch.bfloat16)
    told = explain(operation.query(described("sm_90"), bf16, (64,)))
    assert told.winner is not None
    assert told.winner.name != "flashinfer"
    assert "flashinfer (flashinfer, band unproven): can, ranks lower: band unproven is below" in str(told)


@pytest.mark.parametrize(("arch", "able"), [("sm_75", False), ("sm_80", True), ("sm_100", True), ("gfx942", False)])
def test_flashinfer_is_for_nvidia_from_sm_80(arch: str, able: bool) -> None:
    assert flashinfer._GPU.serves(described(arch)) == able
