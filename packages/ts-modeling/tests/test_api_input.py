"""Arguments of the public functions that are of a wrong type, or out of range: one sentence that names them."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import ConfigError, Mesh, MeshError, kv_spec, load_model, read_config
from ts_modeling.registry import config_from
from ts_modeling.testing import tiny_config

UNTYPED: Any = kv_spec
"""As programs without a type checker call it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("llama")))
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("max_positions", -1, "max_positions = -1; give a whole number"),
        ("max_positions", 1.5, "max_positions = 1.5"),
        ("max_positions", True, "max_positions = True"),
        ("max_positions", "8", "max_positions = '8'"),
        ("device", "foo", "device = 'foo' is none that torch knows"),
        ("device", None, "device = None is none that torch knows"),
        ("device", "cuda:99", r"device = 'cuda:99': this process sees \d+ CUDA devices"),
        ("mesh", "attn_tp=2", r"mesh = 'attn_tp=2' is no Mesh; give one, as Mesh\.parse"),
        ("mesh", "", "mesh = '' is no Mesh"),
    ],
)
def test_load_model_names_the_argument(folder: Path, argument: str, value: Any, message: str) -> None:
    with pytest.raises((ConfigError, MeshError), match=message):
        load_model(folder, load_format="dummy", **{argument: value})


def test_a_folder_may_be_text(folder: Path) -> None:
    assert read_config(str(folder)) == read_config(folder)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda config: UNTYPED(config, Mesh.single(), dtype="bfloat16"), "dtype = 'bfloat16'; give a torch.dtype"),
        (lambda config: UNTYPED("x", Mesh.single(), dtype=torch.float32), "config = 'x' is no model's configuration"),
        (lambda config: UNTYPED(config, "attn_tp=2", dtype=torch.float32), "mesh = 'attn_tp=2' is no Mesh"),
    ],
)
def test_kv_spec_names_the_argument(ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises((ConfigError, MeshError), match=message):
        ask(config_from(tiny_config("llama")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, {"attn_tp": True, "attn_dp": 2}), "attn_tp = True; give a whole number"),
        ((2, {"attn_tp": 2.0}), "attn_tp = 2.0"),
        ((2, {"attn_tp": "2"}), "attn_tp = '2'"),
        ((2, "attn_tp=2"), r"axes = 'attn_tp=2'; give sizes by name, as \{'attn_tp': 2\}, or use Mesh.parse"),
        ((2, None), "axes = None"),
        (("4",), "world = '4'"),
        ((2, {"attn_tp": 2}, "0"), "rank = '0'"),
    ],
)
def test_a_mesh_is_made_of_whole_numbers(arguments: Any, message: str) -> None:
    with pytest.raises(MeshError, match=message):
        Mesh(*arguments)


def test_a_mesh_stays_as_it_was_checked() -> None:
    mesh = Mesh.parse("attn_tp=2,moe_ep=2", rank=1)
    with pytest.raises(TypeError):
        mesh.axes["attn_tp"] = 4  # type: ignore[index]
    assert len({mesh, Mesh.parse("moe_ep=2,attn_tp=2", rank=1), Mesh.parse("attn_tp=2,moe_tp=2", rank=1)}) == 2
    assert pickle.loads(pickle.dumps(mesh)) == mesh == copy.deepcopy(mesh)
