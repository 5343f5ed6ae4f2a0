"""What cannot be loaded is refused before memory is taken: the folder is looked at first, tables are made last."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ts_modeling import CheckpointError, ConfigError, load_model
from ts_modeling.checkpoint import dummy
from ts_modeling.layers import rotary
from ts_modeling.testing import write_checkpoint

WEIGHTS = "model.safetensors"
LARGE = {"vocab_size": 1 << 24, "hidden_size": 1 << 20}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each rotary table that was made."""
    positions: list[int] = []
    make = rotary._scaled_table

    def counting(dim: int, count: int, rope: rotary.Rope) -> torch.Tensor:
        positions.append(count)
        return make(dim, count, rope)

    monkeypatch.setattr(rotary, "_scaled_table", counting)
    return positions


def without_weights(folder: Path) -> str:
    (folder / WEIGHTS).unlink()
    return "holds neither"


def without_a_tensor(folder: Path) -> str:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: t for name, t in tensors.items() if not name.endswith("lm_head.weight")}, folder / WEIGHTS)
    return r"lm_head\.weight missing"


def with_a_wrong_shape(folder: Path) -> str:
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {name: t[:-1].contiguous() if name.endswith("lm_head.weight") else t for name, t in tensors.items()},
        folder / WEIGHTS,
    )
    return r"lm_head\.weight has shape"


@pytest.mark.parametrize("spoil", [without_weights, without_a_tensor, with_a_wrong_shape])
def test_a_folder_that_does_not_fit_costs_no_rotary_table(tmp_path: Path, made: list[int], spoil: Any) -> None:
    write_checkpoint(tmp_path, max_position_embeddings=1 << 24)
    with pytest.raises(CheckpointError, match=spoil(tmp_path)):
        load_model(tmp_path)
    assert made == []


def test_one_rotary_table_serves_all_layers(tmp_path: Path, made: list[int]) -> None:
    write_checkpoint(tmp_path)
    load_model(tmp_path, max_positions=48)
    load_model(tmp_path, max_positions=32, load_format="dummy")
    assert made == [48, 32]


@pytest.mark.parametrize("known", [True, False], ids=["by the system", "by the allocator"])
def test_dummies_that_no_memory_holds_are_refused_with_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """35 TB of embedding, and as much of the head."""
    write_checkpoint(tmp_path)
    config = (tmp_path / "config.json").read_text()
    raw = json.loads(config)
    raw["text_config"] |= LARGE
    (tmp_path / "config.json").write_text(json.dumps(raw))
    if not known:
        monkeypatch.setattr(dummy, "memory_of", lambda device: None)
    with pytest.raises(
        ConfigError, match=r"config\.json asks for 70[0-9]{12} bytes of weights on this rank, more than cpu"
    ):
        load_model(tmp_path, load_format="dummy")
