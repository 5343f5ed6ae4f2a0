"""Measured settings: the file, the lookup, and the tuner's search with a timer of our own."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import cases, errors, settings, tuned, tuning

DEVICE = "nvidia-h200"
DEFAULT = {"BLOCK": 64, "num_warps": 4, "num_stages": 2, "flag": True}


def entry(**changes: Any) -> tuned.Entry:
    values = {
        "kernel": "mla.decode", "dims": {"H": 16, "L": 512}, "config": {"BLOCK": 128}, "us": 1.0, "default_us": 2.0,
        "triton": "3.6.0",
    }  # fmt: skip
    return tuned.Entry(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TS_KERNELS_TUNED, on a machine that takes itself for an H200."""
    monkeypatch.setattr(settings, "_current", [settings.Settings(tuned=tmp_path)])
    monkeypatch.setattr(tuned, "device_name", lambda: DEVICE)
    tuned.forget()
    yield tmp_path
    tuned.forget()


def test_a_device_without_a_file_gets_the_default(folder: Path) -> None:
    assert tuned.config("mla.decode", default=DEFAULT, H=16, L=512) is DEFAULT


def test_the_shape_class_finds_the_entry(folder: Path) -> None:
    tuned.write(folder / f"{DEVICE}.json", DEVICE, [entry()])
    tuned.forget()
    for h in (9, 16):  # both round up to 16
        assert tuned.config("mla.decode", default=DEFAULT, L=512, H=h) == {**DEFAULT, "BLOCK": 128}
    for other in ({"H": 17, "L": 512}, {"H": 16}, {"H": 16, "L": 1024}):
        assert tuned.config("mla.decode", default=DEFAULT, **other) is DEFAULT
    assert tuned.config("mla.prefill", default=DEFAULT, H=16, L=512) is DEFAULT


def test_the_users_file_goes_before_the_shipped_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = folder / "shipped"
    monkeypatch.setattr(tuned, "HERE", shipped)
    tuned.write(shipped / f"{DEVICE}.json", DEVICE, [entry(), entry(kernel="norm.rms_norm")])
    tuned.write(folder / f"{DEVICE}.json", DEVICE, [entry(config={"BLOCK": 32})])
    tuned.forget()
    assert tuned.config("mla.decode", default=DEFAULT, H=16, L=512)["BLOCK"] == 32
    assert tuned.config("norm.rms_norm", default=DEFAULT, H=16, L=512)["BLOCK"] == 128


@pytest.mark.parametrize("config", [{"BLOCKS": 1}, {"BLOCK": "64"}, {"BLOCK": True}, {"num_warps": 4.0}])
def test_settings_that_the_kernel_does_not_have_are_an_error(folder: Path, config: dict[str, Any]) -> None:
    tuned.write(folder / f"{DEVICE}.json", DEVICE, [entry(config=config)])
    tuned.forget()
    name = next(iter(config))
    with pytest.raises(errors.TuningError, match=rf"{DEVICE}\.json: mla\.decode at H=16, L=512 sets {name}="):
        tuned.config("mla.decode", default=DEFAULT, H=16, L=512)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object with format 1"),
        ({"format": 2}, "must be an object with format 1"),
        ({"format": 1, "device": "nvidia-h100"}, "was measured on 'nvidia-h100', this is 'nvidia-h200'"),
        ({"format": 1, "device": DEVICE, "entries": {}}, "entries must be a list"),
        ({"format": 1, "device": DEVICE, "entries": [1]}, r"entries\[0\] must be an object"),
        ({"format": 1, "device": DEVICE, "entries": [{"kernel": 1}]}, r"entries\[0\]\.kernel is missing or of a wrong"),
    ],
)
def test_a_wrong_file_is_refused(folder: Path, content: object, message: str) -> None:
    path = folder / f"{DEVICE}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(errors.TuningError, match=message) as caught:
        tuned.config("mla.decode", default=DEFAULT, H=16)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": {"H": 0}}, r"dims\.H must be a whole number from 1, got 0"),
        ({"dims": {"H": True}}, r"dims\.H must be a whole number"),
        ({"us": "fast"}, r"us is missing or of a wrong type"),
        ({"speed": 1}, "unknown fields speed"),
    ],
)
def test_a_wrong_entry_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / f"{DEVICE}.json"
    tuned.write(path, DEVICE, [entry()])
    content = json.loads(path.read_text())
    content["entries"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(errors.TuningError, match=message):
        tuned.read(path, DEVICE)


def test_writing_replaces_one_entry_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / f"{DEVICE}.json"
    tuned.write(path, DEVICE, [entry(), entry(dims={"H": 32, "L": 512})])
    tuned.write(path, DEVICE, [entry(config={"BLOCK": 256})])
    assert [(e.dims["H"], e.config["BLOCK"]) for e in tuned.read(path, DEVICE)] == [(16, 256), (32, 128)]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(errors.TuningError, match="was measured on"):
        tuned.write(path, "nvidia-h100", [entry()])


@pytest.mark.parametrize(
    ("name", "hip", "slug"),
    [
        ("NVIDIA H200", None, "nvidia-h200"),
        ("NVIDIA H100 80GB HBM3", None, "nvidia-h100-80gb-hbm3"),
        ("Tesla V100", None, "nvidia-tesla-v100"),
        ("AMD Instinct MI300X", "6.4", "amd-instinct-mi300x"),
    ],
)
def test_device_names(monkeypatch: pytest.MonkeyPatch, name: str, hip: str | None, slug: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.version, "hip", hip)
    tuned.device_name.cache_clear()
    assert tuned.device_name() == slug
    tuned.device_name.cache_clear()


class Bench:
    """A kernel that asks for settings, and a timer that knows how good they are."""

    def __init__(self, cost: Callable[[Mapping[str, Any]], float]) -> None:
        self.cost, self.now, self.measured = cost, dict(DEFAULT), 0
        self.broken: Callable[[Mapping[str, Any]], bool] = lambda config: False
        self.wrong: Callable[[Mapping[str, Any]], bool] = lambda config: False

    def run(self, impl: str | None) -> tuple[Tensor, ...]:
        if impl != "reference":
            self.now = dict(tuned.config("fake.kernel", default=DEFAULT, H=16))
            if self.broken(self.now):
                raise RuntimeError("out of resource: shared memory")
        return (torch.full((3,), 2.0 if impl != "reference" and self.wrong(self.now) else 1.0),)

    def time(self, call: Callable[[], object]) -> float:
        call()
        self.measured += 1
        return self.cost(self.now)

    def tune(self, monkeypatch: pytest.MonkeyPatch, operation: str = "fake.op") -> list[tuned.Entry]:
        monkeypatch.setattr(cases, "all_cases", lambda *a, **k: [cases.Case("fake.op", self.run, None)])
        cpu = torch.device("cpu")
        return list(tuning.tune(operation, cases.MINIATURE, torch.float32, cpu, "triton", self.time))


def bowl(config: Mapping[str, Any]) -> float:
    """Best at BLOCK 128, 8 warps, 3 stages, no flag; the default is not."""
    return (
        10
        + abs(math.log2(config["BLOCK"] / 128))
        + abs(math.log2(config["num_warps"] / 8))
        + abs(config["num_stages"] - 3)
        + config["flag"]
    )


def test_the_search_finds_the_best_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    bench = Bench(bowl)
    (best,) = bench.tune(monkeypatch)
    assert best.config == {"BLOCK": 128, "num_warps": 8, "num_stages": 3, "flag": False}
    assert (best.us, best.default_us, dict(best.dims)) == (10, bowl(DEFAULT), {"H": 16})
    assert bench.measured < 3 * 5 * 5 * 2 / 2, "far fewer than all combinations"
    tuned.write(folder / f"{DEVICE}.json", DEVICE, [best])
    tuned.forget()
    assert tuned.config("fake.kernel", default=DEFAULT, H=16) == best.config


def test_settings_that_fail_or_give_other_numbers_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(bowl)
    bench.broken = lambda config: config["BLOCK"] == 128
    bench.wrong = lambda config: config["num_warps"] == 8
    (best,) = bench.tune(monkeypatch)
    assert best.config["BLOCK"] == 64
    assert best.config["num_warps"] in (4, 16)
    bench.broken = lambda config: True
    with pytest.raises(errors.TuningError, match=r"fake\.kernel: neither the default .* nor any other setting works"):
        bench.tune(monkeypatch)


def test_an_operation_that_asks_for_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.TuningError, match=r"other\.op/triton asks for no tuned settings"):
        Bench(bowl).tune(monkeypatch, "other.op")


def test_the_kernels_own_space_is_searched() -> None:
    request = tuned.Request("k", {"BLOCK": 64, "odd": 3}, (), {"BLOCK": (16, 256)})
    assert tuning.space(request) == {"BLOCK": (16, 256), "odd": (3,)}
