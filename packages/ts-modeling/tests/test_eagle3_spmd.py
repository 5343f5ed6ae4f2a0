"""Two processes (gloo) give what one gives: draft heads, layers for multi-token prediction, and targets that give
features of their layers and final states."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from ts_modeling.checkpoint import Table
from ts_modeling.configuration import ModelConfig
from ts_modeling.layers.leaf import Leaf
from ts_modeling.placement import Mesh
from ts_modeling.registry import build, config_from, table_of
from ts_modeling.testing import tiny_config, write_checkpoint, write_tiny

WORKER = Path(__file__).with_name("eagle3_worker.py")
HEAD: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "vocab_size": 320,
    "draft_vocab_size": 96,
}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10}
HEADS = {
    "llama": {**HEAD, "architectures": ["LlamaForCausalLMEagle3"], "num_key_value_heads": 2},
    "mla": {**HEAD, **LATENT, "draft_vocab_size": 97, "architectures": ["Eagle3DeepseekV2ForCausalLM"]},
}
DENSE = ["attn_tp=2/", "attn_dp=2,dense_tp=2/", "attn_tp=2/cut"]
MIXED = ["attn_tp=2,moe_tp=2/", "attn_dp=2,moe_ep=2/dispatch", "attn_tp=2,moe_ep=2/cut"]
JOBS = [
    *((name, f"{mesh}/") for name in HEADS for mesh in DENSE),
    *(("target_llama", f"{mesh}/0+2") for mesh in DENSE),
    *((name, f"{mesh}/0+2") for name in ("target_qwen3_5_moe", "target_kimi") for mesh in MIXED),
    *(("target_kimi", f"{mesh}/{asked}") for mesh in MIXED for asked in ("mtp", "1+final")),
    *(("target_qwen3_5_moe", f"{mesh}/mtp") for mesh in MIXED),
    ("target_llama", "attn_tp=2/cut/final"),
]
"""Features of the last layer too, whose sum no norm follows."""


def write_head(folder: Path, raw: dict[str, Any]) -> None:
    """A draft head of random weights."""
    config = config_from(raw)
    save_file(tensors_of(config, ["midlayer.mlp.gate_proj.weight", "d2t"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))


def tensors_of(config: ModelConfig, names: list[str]) -> dict[str, torch.Tensor]:
    """Random weights for every tensor of the table of ``names``, by the shapes that the model wants."""
    table: Table = table_of(config).chosen(names)
    model = build(config, Mesh.single(), dtype=torch.float32, device=torch.device("cpu"), positions=8).model
    leaves = {path: m for path, m in model.named_modules() if isinstance(m, Leaf)}
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for entry in table.entries:
        shape = leaves[entry.module].slot(entry.part).shape
        random = torch.randn(shape, generator=generator)
        random = 1 + 0.1 * random if len(shape) == 1 else random * shape[-1] ** -0.5
        tensors[entry.name] = torch.arange(shape[0]) if entry.name == "d2t" else random.bfloat16()
    return tensors


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {name: tmp_path_factory.mktemp(name) for name in dict.fromkeys(name for name, _ in JOBS)}
    for name, raw in HEADS.items():
        write_head(out[name], raw)
    write_tiny(out["target_llama"], tiny_config("llama", num_attention_heads=4))
    experts = {"num_experts": 8, "moe_intermediate_size": 48}
    raw = tiny_config("qwen3_5_moe", num_attention_heads=4, mtp_num_hidden_layers=1, **experts)
    write_tiny(out["target_qwen3_5_moe"], raw)
    path, own = out["target_qwen3_5_moe"] / "model.safetensors", tensors_of(config_from(raw, draft="mtp"), [])
    save_file({**load_file(path), **{n: t for n, t in own.items() if n.startswith("mtp.")}}, path)
    write_checkpoint(out["target_kimi"], int4=False, num_nextn_predict_layers=1)
    return out


@pytest.fixture(scope="module")
def results(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[np.ndarray]]:
    """What worlds of one and two give for each job, [rank, step, sequence, columns]."""
    out = {}
    for world in (1, 2):
        jobs = [f"{folders[name]}:{how if world == 2 else '//' + how.split('/')[2]}" for name, how in JOBS]
        output = tmp_path_factory.mktemp(f"world{world}")
        commands = [
            [sys.executable, str(WORKER), str(output / "store"), str(rank), str(world), str(output), *jobs]
            for rank in range(world)
        ]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
        try:
            errors = [process.communicate(timeout=300)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert all(process.returncode == 0 for process in processes), "\n".join(errors)
        out[world] = [
            np.stack([np.load(output / f"{job}-{rank}.npy") for rank in range(world)]) for job in range(len(JOBS))
        ]
    return out


@pytest.mark.parametrize("job", range(len(JOBS)), ids=lambda job: "-".join(JOBS[job]))
def test_two_processes_equal_one(results: dict[int, list[np.ndarray]], job: int) -> None:
    (one,), ranks = results[1][job], results[2][job]
    assert ((~np.isnan(ranks)).any(axis=0) == ~np.isnan(one)).all()
    largest = float(np.nanmax(np.abs(one)))
    assert largest > 0.1
    for logits in ranks:
        here = ~np.isnan(logits)
        assert float(np.abs(logits[here] - one[here]).max(initial=0.0)) / largest < 1e-5
