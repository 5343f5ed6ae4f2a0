"""N processes (gloo) give what one gives; and models leave communication to one module."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ts_modeling
from ts_modeling import MeshError, load_model
from ts_modeling.placement import Mesh
from ts_modeling.testing import FORMATS, write_checkpoint
from ts_modeling.testing.worlds import run_world

WORKER = Path(__file__).with_name("spmd_worker.py")
SOURCE = Path(ts_modeling.__file__).parent
TWO = [
    "attn_tp=2,moe_tp=2/plain",
    "attn_tp=2,moe_tp=2/cut",
    "attn_tp=2,moe_ep=2,dense_tp=1/dispatch",
    "attn_tp=2,moe_ep=2/both",
    "attn_dp=2,moe_ep=2/plain",
    "attn_dp=2,moe_ep=2/dispatch",
    "attn_dp=2,moe_tp=2,dense_tp=2/auto",
]
FOUR = [
    f"{mesh}/{policy}"
    for mesh in (
        "attn_tp=4,moe_tp=4",
        "attn_tp=4,moe_ep=4",
        "attn_tp=4,moe_tp=2,moe_ep=2",
        "attn_dp=2,attn_tp=2,moe_ep=4,dense_tp=2",
        "attn_dp=2,attn_tp=2,moe_ep=2,moe_tp=2,dense_tp=1",
        "attn_dp=2,attn_tp=2,moe_ep=2,dense_tp=4",
        "attn_dp=4,moe_tp=2",
        "attn_dp=4,moe_ep=4",
        "attn_dp=4,moe_ep=2,moe_tp=2,dense_tp=2",
        "attn_dp=2,attn_tp=2,moe_tp=4,dense_tp=4",
    )
    for policy in ("plain", "cut", "dispatch", "both", "auto")
]
RELATIVE = 1e-5


def logits_of(checkpoint: Path, world: int, meshes: list[str], output: Path) -> list[np.ndarray]:
    """Of every mesh [ranks, ...]; a rank's rows that it does not have are NaN."""
    files = run_world(WORKER, checkpoint, world, meshes, output)
    return [np.stack([np.load(file) for file in ranks]) for ranks in files]


def check(tmp_path: Path, world: int, meshes: list[str], **changes: Any) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(checkpoint, **{"moe_intermediate_size": 128, **changes})
    (one,) = logits_of(checkpoint, 1, ["/plain"], tmp_path / "one")
    for text, ranks in zip(meshes, logits_of(checkpoint, world, meshes, tmp_path / "many"), strict=True):
        assert (~np.isnan(ranks)).any(axis=0).tolist() == (~np.isnan(one[0])).tolist(), text
        for rank, logits in enumerate(ranks):
            here = ~np.isnan(logits)
            error = np.abs(logits[here] - one[0][here]).max() / np.abs(one[0][here]).max()
            assert error <= RELATIVE, f"{text} rank {rank}: {error}"


def test_two_processes_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 2, TWO)


def test_two_processes_equal_one_in_a_mix_of_formats(tmp_path: Path) -> None:
    """Experts in NVFP4, a dense layer in INT8 with zero points, FP8 elsewhere but for one ignored matrix."""
    check(tmp_path, 2, ["attn_tp=2,moe_tp=2"], quantization="mixed", intermediate_size=128)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FORMATS)
def test_two_processes_equal_one_in_every_format(tmp_path: Path, name: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 256, "kv_lora_rank": 128}
    heads = {"q_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64}
    check(
        tmp_path,
        2,
        ["attn_tp=2,moe_tp=2", "attn_dp=2,moe_ep=2"],
        quantization=name,
        num_hidden_layers=2,
        **sizes,
        **heads,
    )


@pytest.mark.nightly
def test_four_processes_with_crossing_views_equal_one(tmp_path: Path) -> None:
    check(tmp_path, 4, FOUR)


def test_a_mesh_without_process_group_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(MeshError, match="init_process_group"):
        load_model(tmp_path, mesh=Mesh(2, {"attn_tp": 2}))


@pytest.mark.parametrize("folder", ["models", "layers"])
def test_no_model_or_layer_communicates(folder: str) -> None:
    words = ("distributed", "communication", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    files = list((SOURCE / folder).rglob("*.py"))
    assert files
    for path in files:
        found = [word for word in words if word in path.read_text()]
        assert not found, f"{path.name} mentions {found}"


def imports_distributed(path: Path) -> bool:
    lines = path.read_text().splitlines()
    return any("torch.distributed" in line for line in lines if line.startswith(("import ", "from ")))


def test_one_package_talks_between_ranks() -> None:
    found = {p.relative_to(SOURCE).parts[0] for p in SOURCE.rglob("*.py") if imports_distributed(p)}
    assert found == {"communication"}
