"""N processes (gloo) give what one gives, for every model: heads, experts and tokens cut, uneven and empty ranks.

All models and meshes of one size of world run in one launch.
"""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts_modeling import Mesh
from ts_modeling.testing import mxfp4_experts, quantize_tiny, tiny_config, write_tiny

WORKER = Path(__file__).with_name("models_worker.py")
HEADS: dict[str, Any] = {"num_attention_heads": 4, "hidden_size": 72}
"""On two key heads, so that four ranks share them (MiniMax: on one, which two share); two vocabularies are odd."""
MODELS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {**HEADS, "num_key_value_heads": 4, "intermediate_size": 96, "moe_intermediate_size": 48},
    "gpt_oss": {**HEADS, "num_local_experts": 8, "intermediate_size": 48, "vocab_size": 323},
    "llama": {**HEADS, "attention_bias": True, "tie_word_embeddings": True, "vocab_size": 321},
    "minimax_m2": {**HEADS, "num_key_value_heads": 1, "num_local_experts": 8, "intermediate_size": 48},
    "qwen3": HEADS,
    "qwen3_5": HEADS,
    "qwen3_5_moe": {**HEADS, "num_experts": 8, "moe_intermediate_size": 48},
    "qwen3_moe": {**HEADS, "num_experts": 8, "moe_intermediate_size": 48, "mlp_only_layers": [1]},
}
UNEVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_oss-mxfp4": ("gpt_oss", {"num_attention_heads": 4, "hidden_size": 96, "intermediate_size": 160}),
    "qwen3_moe-fp8": ("qwen3_moe", {**HEADS, "hidden_size": 128, "num_experts": 4, "moe_intermediate_size": 640}),
    "llama-uneven": ("llama", {**HEADS, "intermediate_size": 70}),
    "qwen3_moe-uneven": ("qwen3_moe", {**HEADS, "num_experts": 4, "moe_intermediate_size": 43}),
}
"""Five blocks of 32 and of 128 for two and for four ranks; plain sizes of too few columns for sixteen each, and odd."""
EXPERTS, PLAIN = r"experts\.\d+\.\w+_proj$", ["lm_head", "model.layers.*.self_attn"]
DENSE = ("llama", "qwen3", "qwen3_5")
MESHES = {
    2: [
        "attn_tp=2,moe_tp=2/",
        "attn_tp=2,moe_ep=2,dense_tp=1/dispatch",
        "attn_dp=2,moe_ep=2/dispatch",
        "attn_tp=2,moe_ep=2/cut",
        "attn_dp=2,moe_tp=2,dense_tp=2/",
    ],
    4: [
        "attn_tp=4,moe_tp=4/",
        "attn_tp=4,moe_ep=4/dispatch",
        "attn_tp=4,moe_tp=2,moe_ep=2/cut",
        "attn_dp=4,moe_ep=2/dispatch",
        "attn_dp=2,attn_tp=2,moe_ep=4/cut+dispatch",
    ],
}
"""And the compiler's policy for each."""
JOBS = {
    world: [
        (model, mesh)
        for model in MODELS
        for mesh in ([m for m in meshes if "dispatch" not in m] if model in DENSE else meshes)
    ]
    for world, meshes in MESHES.items()
}
for world, mesh in ((2, "attn_tp=2,moe_tp=2,dense_tp=2/"), (4, "attn_tp=4,moe_tp=4,dense_tp=4/cut")):
    JOBS[world] += [(model, mesh) for model in UNEVEN]
Worlds = dict[int, dict[tuple[str, str], np.ndarray]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {model: tmp_path_factory.mktemp(model) for model in MODELS}
    for model, folder in out.items():
        write_tiny(folder, tiny_config(model, **MODELS[model]))
    for name, (model, sizes) in UNEVEN.items():
        out[name] = folder = tmp_path_factory.mktemp(name)
        raw = tiny_config(model, **sizes)
        if name.endswith("mxfp4"):
            mxfp4_experts(folder, raw)
        elif name.endswith("fp8"):
            quantize_tiny(folder, raw, "fp8-block", EXPERTS, modules_to_not_convert=PLAIN)
        else:
            write_tiny(folder, raw)
    return out


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str, np.ndarray]:
    """What one process gives."""
    spec = importlib.util.spec_from_file_location("models_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(WORKER.parent)  # as for a script
        spec.loader.exec_module(worker)
    return {model: worker.run(folder, Mesh.single()) for model, folder in folders.items()}


@pytest.fixture(scope="module")
def worlds(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the ranks of a world give for each job, [rank, step, sequence, V]; each size is launched once."""
    made: Worlds = {}
    tried: set[int] = set()

    def world_of(size: int) -> dict[tuple[str, str], np.ndarray]:
        if size not in tried:
            tried.add(size)
            made[size] = launch(size, folders, tmp_path_factory.mktemp(f"world{size}"))
        assert size in made, "a rank failed; see the first test of this world"
        return made[size]

    return world_of


def launch(world: int, folders: dict[str, Path], output: Path) -> dict[tuple[str, str], np.ndarray]:
    jobs = [f"{folders[model]}:{mesh}" for model, mesh in JOBS[world]]
    commands = [
        [sys.executable, str(WORKER), str(output / "store"), str(rank), str(world), str(output), *jobs]
        for rank in range(world)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return {
        job: np.stack([np.load(output / f"{number}-{rank}.npy") for rank in range(world)])
        for number, job in enumerate(JOBS[world])
    }


def wait(processes: list[subprocess.Popen[str]]) -> None:
    """Until all end well; the others of one that fails would wait for it for ever."""
    until = time.monotonic() + 540
    while any(process.poll() is None for process in processes):
        failed = next((process for process in processes if process.poll()), None)
        assert failed is None, failed and failed.communicate()[1]
        assert time.monotonic() < until, "no end after 540 s"
        time.sleep(0.1)
    assert all(process.returncode == 0 for process in processes)


def check(ranks: np.ndarray, one: np.ndarray) -> None:
    covered = (~np.isnan(ranks)).any(axis=0)
    assert (covered == ~np.isnan(one)).all()
    largest = float(np.nanmax(np.abs(one)))
    for rank, logits in enumerate(ranks):
        here = ~np.isnan(logits)
        difference = float(np.abs(logits[here] - one[here]).max(initial=0.0)) / largest
        assert difference < 1e-5, f"rank {rank}: {difference}"


@pytest.mark.parametrize(("model", "mesh"), JOBS[2])
def test_two_processes_equal_one(worlds: Any, alone: dict[str, np.ndarray], model: str, mesh: str) -> None:
    check(worlds(2)[model, mesh], alone[model])


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "mesh"), JOBS[4])
def test_four_processes_equal_one(worlds: Any, alone: dict[str, np.ndarray], model: str, mesh: str) -> None:
    check(worlds(4)[model, mesh], alone[model])
