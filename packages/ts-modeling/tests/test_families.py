"""Models of other packages: found by their entry points in any process, and broken ones each on its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import ConfigError, Mesh, load_model, registry
from ts_modeling.cli import main
from ts_modeling.plugins import PluginWarning
from ts_modeling.testing import run_whole, tiny_config, write_tiny

MODULE = '''
"""A Llama under another name, with a tower of one product."""
import msgspec
import torch
from ts_modeling.configuration import read_fields
from ts_modeling.families import FamilyPlugin
from ts_modeling.layers import AnnotatedModel, BiasedLinear
from ts_modeling.models import llama
from ts_modeling.models.family import Family, VisionPart
from ts_modeling.placement import TOKENS, Dim, Replicate, Spec


class Shape(msgspec.Struct, frozen=True):
    patch: int
    merge: tuple[int, int] = (1, 1)
    frames: int = 1
    media_token: int = 7


class AcmeConfig(llama.LlamaConfig, frozen=True, kw_only=True):
    eyes: Shape | None = None


class Eyes(AnnotatedModel):
    def __init__(self, config, mesh):
        super().__init__()
        pixels, hidden = Dim("pixels", 3 * config.eyes.patch**2), Dim("hidden", config.hidden_size)
        self.product = BiasedLinear(pixels, hidden, mesh, columns="attn_tp")
        self.inputs = {"batch.patches": Spec(TOKENS, pixels)}
        self.gives = Spec(TOKENS, hidden, attn_tp=Replicate())

    def forward(self, batch):
        return self.product(batch.patches)


class Acme(llama.Llama):
    def __init__(self, config, mesh, **options):
        super().__init__(config, mesh, **options)
        if config.eyes:
            self.eyes = Eyes(config, mesh)


FAMILY = Family(
    architectures=("AcmeForCausalLM", "OldForCausalLM", "TwiceForCausalLM"),
    config=AcmeConfig,
    parse_config=lambda raw: read_fields(AcmeConfig, raw, raw, "", theta=10000.0),
    model=Acme,
    checkpoint_table=llama.checkpoint_table,
    kv_spec=llama.model.kv_spec,
    vision=VisionPart(
        configure=lambda config, raw: msgspec.structs.replace(config, eyes=Shape(raw["patch"])),
        shape=lambda config: config.eyes,
        tower=lambda model: model.eyes,
    ),
)
PLUGIN = FamilyPlugin(api_version=1, family=FAMILY)
OLD = FamilyPlugin(api_version=0, family=FAMILY)
'''
ENTRIES = {
    "acme": ("AcmeForCausalLM = acme_models:PLUGIN", "OldForCausalLM = acme_models:OLD"),
    "torn": ("TornForCausalLM = acme_torn:PLUGIN", "BareForCausalLM = acme_models:FAMILY"),
    "mixed-up": ("OtherForCausalLM = acme_models:PLUGIN", "Qwen3ForCausalLM = acme_models:PLUGIN"),
    "one": ("TwiceForCausalLM = acme_models:PLUGIN",),
    "two": ("TwiceForCausalLM = acme_models:PLUGIN",),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Packages as an installer leaves them, one of which cannot be imported."""
    folder = tmp_path / "site"
    for name, entries in ENTRIES.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(("[ts_modeling.families]", *entries, "")))
    (folder / "acme_models.py").write_text(MODULE)
    (folder / "acme_torn.py").write_text("import acme_of_another_day\n")
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are seen in this process, until what was registered is taken back."""
    monkeypatch.setattr(registry, "FAMILIES", list(registry.FAMILIES))
    monkeypatch.setattr(registry, "ARCHITECTURES", dict(registry.ARCHITECTURES))
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("acme_models", None)


def acme(architecture: str = "AcmeForCausalLM", **changes: Any) -> dict[str, Any]:
    return {**tiny_config("llama"), "architectures": [architecture], **changes}


def test_another_process_finds_an_installed_family(site: Path, tmp_path: Path) -> None:
    """As workers do, who are told of nothing but a folder."""
    (tmp_path / "config.json").write_text(json.dumps(acme()))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))}
    command = [sys.executable, "-m", "ts_modeling.cli", "explain", "--model", str(tmp_path), "--mesh", "attn_tp=2"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 all_reduce" in done.stdout
    assert done.stderr == ""


@pytest.mark.usefixtures("installed")
def test_a_family_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    write_tiny(tmp_path, tiny_config("llama"))
    prompt = [5, 3, 8, 13, 21]
    expected = run_whole(load_model(tmp_path, dtype="float32"), prompt)
    assert "acme_models" not in sys.modules
    (tmp_path / "config.json").write_text(json.dumps(acme()))
    model = load_model(tmp_path, dtype="float32")
    assert type(model.config).__name__ == "AcmeConfig"
    assert torch.equal(run_whole(model, prompt), expected)
    assert len(registry.FAMILIES) == len({*map(id, registry.FAMILIES)}) == 10
    load_model(tmp_path, dtype="float32")
    assert len(registry.FAMILIES) == 10


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            "TornForCausalLM",
            r"family plugin 'TornForCausalLM' \(acme_torn:PLUGIN of torn 1.0\) failed: ModuleNotFoundError: ",
        ),
        ("OldForCausalLM", r"'OldForCausalLM' \(acme_models:OLD of acme 1.0\) failed: .*built for version 0, .* has 1"),
        ("BareForCausalLM", r"'BareForCausalLM' .* failed: TypeError: it must be a FamilyPlugin, is Family"),
        ("OtherForCausalLM", r"its family has AcmeForCausalLM, .*; call the entry point after one of them"),
        (
            "TwiceForCausalLM",
            r"architecture TwiceForCausalLM is that of .* of one 1.0\) and .* of two 1.0\); uninstall",
        ),
        ("AcneForCausalLM", r"the nearest is AcmeForCausalLM; known are AcmeForCausalLM, "),
    ],
)
def test_one_that_cannot_be_used_is_named_and_fails_alone(architecture: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.config_from(acme(architecture))
    assert type(registry.config_from(acme())).__name__ == "AcmeConfig"
    assert type(registry.config_from(tiny_config("llama"))).__name__ == "LlamaConfig"


@pytest.mark.usefixtures("installed")
def test_an_architecture_of_the_package_is_not_replaced() -> None:
    left_out = r"'Qwen3ForCausalLM' \(acme_models:PLUGIN\) is left out: ts-modeling has a Qwen3ForCausalLM itself"
    with pytest.warns(PluginWarning, match=left_out):
        config = registry.config_from(tiny_config("qwen3"))
    assert type(config).__name__ == "Qwen3Config"
    assert "acme_models" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_a_family_says_what_it_sees_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tower is compiled on its own, whatever its class; without vision it is not there."""
    raw = acme(patch=2)
    seeing = registry.config_from(raw, vision=True)
    options: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "positions": 8}
    built = registry.build(seeing, Mesh.single(), **options)
    assert built.vision is not None
    assert (built.vision.shape.patch, built.vision.shape.media_token) == (2, 7)
    assert registry.build(registry.config_from(raw), Mesh.single(), **options).vision is None
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert main(["explain", "--model", str(tmp_path), "--vision", "--mesh", "attn_tp=2"]) == 0
    assert (
        "[gather hidden] over attn_tp|dense_tp (2 ranks): 72 bytes a token; product -> output"
        in capsys.readouterr().out
    )
