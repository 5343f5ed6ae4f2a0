"""From a name to a folder, with checkpoints made by hand."""

import io
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ts_entry import hub, resolve
from ts_entry.banner import Banner
from ts_entry.checkpoint import inspect
from ts_entry.config import build
from ts_entry.errors import CheckpointError, LaunchError, MemoryShortError, ModelNotFoundError, UsageError
from ts_entry.launcher import announce
from ts_entry.machine import Machine
from ts_entry.resolve import Checkpoint, Resolver
from ts_entry.settings import Settings, read_settings

KIMI = "KimiK25ForConditionalGeneration"


def shard(path: Path, tensors: dict[str, int], *, cut: int = 0) -> None:
    """A safetensors file of uint8 tensors with these sizes, ``cut`` bytes short."""
    table, offset = {}, 0
    for name, size in tensors.items():
        table[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(offset)
    path.write_bytes(data[: len(data) - cut])


def checkpoint(folder: Path, *, architecture: str = KIMI, size: int = 100) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    shard(folder / "model.safetensors", {"w": size})
    return folder


def sharded(folder: Path, *, parts: int = 3) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [KIMI]}))
    table = {}
    for part in range(parts):
        shard(folder / f"model-{part}.safetensors", {f"w{part}": 10})
        table[f"w{part}"] = f"model-{part}.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def cached(cache: Path, make: Callable[[Path], Path], *, revision: str = "main") -> Path:
    base = cache / "models--moonshotai--Kimi-K2.5"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / revision).write_text("c0ffee")
    return make(base / "snapshots" / "c0ffee")


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the bundled miniature."""
    folder = checkpoint(tmp_path / "bundled", size=7)
    monkeypatch.setattr(resolve, "miniature_folder", lambda _: folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HOME": str(tmp_path), "TS_MODELS": str(tmp_path / "models"), "HF_HUB_OFFLINE": "1"})


def found(settings: Settings, model: str = "kimi-k2.5", *, memory: int = 10**9, **options: Any) -> Checkpoint:
    machine = Machine(device="cpu", title="CPU", free_memory=memory)
    config = build({"model": model, **options})
    return Resolver(config=config, settings=settings, machine=machine, say=lambda _: None).resolve()


def test_the_order_of_places(tmp_path: Path, settings: Settings, mini: Path) -> None:
    taken = found(settings)
    assert (taken.folder, taken.name, taken.miniature) == (mini, "kimi-k2.5-mini", True)
    assert taken.aliases == ("kimi-k2.5",)
    assert [word in " ".join(taken.notes) for word in ("TS_MODELS", "cache", "HF_HUB_OFFLINE")] == [True] * 3

    in_cache = cached(settings.hub_cache, checkpoint)
    taken = found(settings)
    assert (taken.folder, taken.name, taken.miniature) == (in_cache, "kimi-k2.5", False)
    assert "cache" in taken.source

    in_models = checkpoint(tmp_path / "models" / "kimi-k2.5")
    assert found(settings).folder == in_models
    assert "TS_MODELS" in found(settings).source

    given = checkpoint(tmp_path / "given")
    taken = found(settings, weights=str(given))
    assert (taken.folder, taken.name) == (given, "kimi-k2.5")
    assert found(settings, str(given)).name == "given"


def test_the_banner_says_which_folder_was_taken_and_on_whose_word(
    tmp_path: Path, settings: Settings, mini: Path
) -> None:
    given = checkpoint(tmp_path / "given")

    def said(**options: Any) -> str:
        stream = io.StringIO()
        machine = Machine(device="cpu", title="CPU", free_memory=10**9)
        taken = found(settings, **options)
        announce(Banner(stream), build({"model": "kimi-k2.5"}), settings, machine, taken)
        return stream.getvalue()

    lines = said(weights=str(given)).splitlines()
    assert lines[1].startswith("  model      kimi-k2.5, given as --weights, ")
    assert lines[2].split() == ["from", str(given)]
    assert lines[3].strip() == "taken for Kimi K2.5 because --model says so; only its architecture was checked"
    assert "taken for" not in said(), "the miniature is known for what it is"
    cached(settings.hub_cache, checkpoint)
    assert "taken for" not in said(), "the hub's cache has the repository's own files"
    checkpoint(tmp_path / "models" / "kimi-k2.5")
    assert "because the folder's name says so" in said()


@pytest.mark.parametrize("name", ["Kimi-K2.5", "moonshotai/Kimi-K2.5", "KIMI-K2.5", "kimi-k25"])
def test_other_spellings_are_the_same_model(settings: Settings, mini: Path, name: str) -> None:
    taken = found(settings, name)
    assert taken.name == "kimi-k2.5-mini"
    assert taken.aliases == (name,)


def test_a_copy_of_the_miniature_is_not_passed_off_as_the_full_model(
    tmp_path: Path, settings: Settings, mini: Path
) -> None:
    copy = checkpoint(tmp_path / "models" / "kimi-k2.5", size=7)
    assert found(settings).name == found(settings, weights=str(copy)).name == "kimi-k2.5-mini"
    with pytest.raises(UsageError, match="cannot carry"):
        found(settings, served_model_name="Kimi-K2.5")


def test_served_model_name_replaces_the_names(settings: Settings, mini: Path) -> None:
    taken = found(settings, served_model_name="coder")
    assert (taken.name, taken.aliases, taken.miniature) == ("coder", (), True)


def test_no_miniature_is_an_error_that_says_where_was_looked(settings: Settings, mini: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"TS_MODELS.*cache.*HF_HUB_OFFLINE.*--weights"):
        found(settings, miniature=False)


@pytest.mark.parametrize(("typed", "near"), [("kimi-k2", "did you mean kimi-k2"), ("llama", "known: kimi-k2.5")])
def test_unknown_names(settings: Settings, mini: Path, typed: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"unknown model {typed}.*{near}"):
        found(settings, typed)


def test_a_repository_that_nobody_has(settings: Settings, mini: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no checkpoint of someone/else"):
        found(settings, "someone/else")


def test_a_model_of_an_installed_package(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its entry point, which names a module that is not there: nothing is loaded here."""
    folder = checkpoint(tmp_path / "acme", architecture="AcmeForCausalLM")
    with pytest.raises(CheckpointError, match="AcmeForCausalLM is not supported"):
        found(settings, str(folder))
    info = tmp_path / "site" / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ts_modeling.families]\nAcmeForCausalLM = acme_of_nowhere:PLUGIN\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert found(settings, str(folder)).folder == folder


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _other(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')


def _not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    shard(folder / "model.safetensors", {"w": 100}, cut=1)


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_config, "no config.json"),
        (_other, "GPT2LMHeadModel is not supported"),
        (_not_json, "cannot be read as JSON"),
        (_no_weights, "no weights"),
        (_cut, "its header announces"),
        (_empty, "no safetensors header"),
        (_pointer, "no safetensors header"),
    ],
)
def test_a_broken_folder_is_one_sentence(
    tmp_path: Path, settings: Settings, mini: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = checkpoint(tmp_path / "broken")
    spoil(folder)
    for model, options in (("kimi-k2.5", {"weights": str(folder)}), (str(folder), {})):
        with pytest.raises(CheckpointError, match=words):
            found(settings, model, **options)


def test_missing_shards_are_counted(tmp_path: Path, settings: Settings, mini: Path) -> None:
    folder = sharded(tmp_path / "parts")
    assert found(settings, str(folder)).inspection.weight_bytes > 30
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 weight files are missing, first model-1"):
        found(settings, str(folder))


def test_a_shard_outside_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "parts")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../bundled/model.safetensors"}}))
    with pytest.raises(CheckpointError, match="missing"):
        inspect(folder, architectures=frozenset({KIMI}))


def test_an_interrupted_download_in_the_cache_is_not_taken(settings: Settings, mini: Path) -> None:
    folder = cached(settings.hub_cache, sharded)
    (folder / "model-2.safetensors").unlink()
    taken = found(settings)
    assert taken.miniature
    assert any("only a part" in note for note in taken.notes)


def test_what_does_not_fit_is_refused_before_loading(tmp_path: Path, settings: Settings, mini: Path) -> None:
    checkpoint(tmp_path / "models" / "kimi-k2.5", size=5000)
    with pytest.raises(MemoryShortError, match=r"5\.1 kB of memory and the CPU has 5\.0 kB"):
        found(settings, memory=5000)
    assert found(settings, memory=5000, load_format="dummy").inspection.weight_bytes == 0


def test_revision_selects_the_snapshot(settings: Settings, mini: Path) -> None:
    cached(settings.hub_cache, checkpoint, revision="v2")
    assert found(settings).miniature
    assert not found(settings, revision="v2").miniature
    assert not found(settings, revision="c0ffee").miniature


class TestHub:
    """A hub that can be reached, or seems so."""

    @pytest.fixture
    def online(self, tmp_path: Path) -> Settings:
        return read_settings({"HOME": str(tmp_path)})

    def test_what_cannot_fit_is_not_fetched(
        self, online: Settings, mini: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.Remote(size=594 * 10**9))
        monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("fetched"))
        taken = found(online)
        assert taken.miniature
        assert "needs 594.0 GB of memory and the CPU has 1.0 GB" in taken.notes[-1]

    def test_what_fits_is_fetched_and_announced(
        self, online: Settings, mini: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.Remote(size=100))
        monkeypatch.setattr(hub, "download", lambda *_: cached(online.hub_cache, checkpoint))
        machine = Machine(device="cpu", title="CPU", free_memory=10**9)
        config = build({"model": "kimi-k2.5"})
        taken = Resolver(config=config, settings=online, machine=machine, say=said.append).resolve()
        assert not taken.miniature
        assert "fetching moonshotai/Kimi-K2.5, 100 bytes" in said[0]

    def test_no_download_does_not_ask(self, online: Settings, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "ask_hub", lambda *_: pytest.fail("asked"))
        assert found(online, download=False).miniature

    def test_a_hub_that_never_answers_costs_two_seconds(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
            settings = read_settings({"HOME": str(tmp_path), "HF_ENDPOINT": endpoint})
            began = time.monotonic()
            remote = hub.ask_hub(settings, "a/b", None)
            assert time.monotonic() - began < hub.ANSWER_SECONDS + 0.5
            assert remote.problem

    def test_a_closed_port_is_told_at_once(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        settings = read_settings({"HOME": str(tmp_path), "HF_ENDPOINT": endpoint})
        assert "cannot be reached" in hub.ask_hub(settings, "a/b", None).problem


def test_fingerprint_follows_config_and_headers(tmp_path: Path) -> None:
    known = frozenset({KIMI})
    first = inspect(checkpoint(tmp_path / "a"), architectures=known).fingerprint
    assert inspect(checkpoint(tmp_path / "b"), architectures=known).fingerprint == first
    assert inspect(checkpoint(tmp_path / "c", size=101), architectures=known).fingerprint != first
    (tmp_path / "b" / "config.json").write_text(json.dumps({"architectures": [KIMI], "x": 1}))
    assert inspect(tmp_path / "b", architectures=known).fingerprint != first


def test_errors_are_one_line(tmp_path: Path, settings: Settings, mini: Path) -> None:
    for model in ("nope", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(LaunchError) as caught:
            found(settings, model)
        assert "\n" not in str(caught.value)
