"""How fast a checkpoint becomes a model, against a plain read of the same file, and the memory that it takes.

Usage: uv run python tools/bench/loading.py [--formats plain,int4,fp8-block] [--layers 16] [--wide 1] [--json FILE]

Makes a random DeepSeek V3 of about 20 MB (bf16) a layer in a temporary folder (``--wide`` W: W times as wide, so W * W
times the bytes), and loads it in a fresh process: with the file dropped from the page cache (cold; the system may
ignore that) and with it there (warm). It is held against two plain reads: 8 MiB at a time into one buffer, and, in a
fresh process as well, into new memory of the file's size, which whoever keeps the weights cannot do without (in a
virtual machine its price depends on whether the host has it at hand, so runs alternate). CPU is that of all threads,
which a busy machine changes less. Peak is the process's largest resident set above that before loading, mapped pages
of the file included; held is what is resident above it afterwards, so the prepared weights.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, TypeVar

import numpy as np
import torch
from ts_modeling.checkpoint import CheckpointFolder, load_weights
from ts_modeling.placement import Mesh
from ts_modeling.registry import build, read_config, table_of
from ts_modeling.testing import write_checkpoint

SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": 512,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "num_attention_heads": 16,
    "vocab_size": 4096,
}
WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "q_lora_rank",
    "kv_lora_rank",
    "num_attention_heads",
)
CHUNK = 8 << 20
T = TypeVar("T")


def resident(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) << 10


def forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(path: Path, *, keep: bool) -> tuple[float, float]:
    """Seconds, and CPU seconds, to read a file from end to end, into new memory if it is kept."""
    size = path.stat().st_size
    start, cpu = perf_counter(), process_time()
    whole = np.empty(size if keep else CHUNK, np.uint8).data
    at = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(whole[at : at + CHUNK]):
            at += got if keep else 0
    return perf_counter() - start, process_time() - cpu


def kept_read(path: Path) -> dict[str, float]:
    """A plain read into new memory, in this process."""
    seconds, cpu = plain_read(path, keep=True)
    return {"seconds": seconds, "cpu_s": cpu}


def load(folder: Path) -> dict[str, float]:
    """Seconds, and bytes read, held and at the peak, of loading in this process."""
    config = read_config(folder)
    device = torch.device("cpu")
    with torch.no_grad():
        built = build(config, Mesh.single(), dtype=torch.float32, device=device, positions=64)
        table = table_of(config)
        torch.randn(256, 256) @ torch.randn(256, 256)  # threads and their stacks
        gc.collect()  # searching all that the imports made takes 0.1 s, and would happen at some point of the loading
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        start, cpu = perf_counter(), process_time()
        done = load_weights(built.model, CheckpointFolder(folder), table, device=device, progress=None)
        seconds, cpu = perf_counter() - start, process_time() - cpu
    peak, held = resident("VmHWM") - before, resident("VmRSS") - before
    return {"seconds": seconds, "cpu_s": cpu, "read_bytes": done, "peak_bytes": peak, "held_bytes": held}


def in_fresh_process(path: Path) -> dict[str, float]:
    """``load`` of a folder elsewhere, or ``plain_read`` of a file into memory that is kept."""
    command = [sys.executable, __file__, "--child", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out))


def _after(path: Path, state: str, call: Callable[[], T]) -> T:
    """What ``call`` gives, the file dropped before if it is to be cold."""
    if state == "cold":
        forget(path)
    return call()


def measure(kind: str, layers: int, wide: int, repeats: int) -> dict[str, Any]:
    """One format: the best of ``repeats`` runs, and the largest peak."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        chosen: dict[str, Any] = {"plain": {"int4": False}, "int4": {"int4": True}}.get(kind, {"quantization": kind})
        sizes = {name: size * wide if name in WIDTHS else size for name, size in SIZES.items()}
        write_checkpoint(folder, **chosen, **sizes, num_hidden_layers=layers)
        path = folder / "model.safetensors"
        row: dict[str, Any] = {"format": kind, "file_bytes": path.stat().st_size}
        for state in ("cold", "warm"):
            reads, kept, runs = [], [], []
            for _ in range(repeats):
                reads.append(_after(path, state, lambda: plain_read(path, keep=False)[0]))
                kept.append(_after(path, state, lambda: in_fresh_process(path)))
                runs.append(_after(path, state, lambda: in_fresh_process(folder)))
            row[state] = {
                "read_s": min(reads),
                "kept_s": min(run["seconds"] for run in kept),
                "kept_cpu_s": min(run["cpu_s"] for run in kept),
                "load_s": min(run["seconds"] for run in runs),
                "load_cpu_s": min(run["cpu_s"] for run in runs),
            }
            row["held_bytes"] = max(run["held_bytes"] for run in runs)
            row["peak_bytes"] = max(row.get("peak_bytes", 0), *(run["peak_bytes"] for run in runs))
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="plain,int4,fp8-block", help="plain, int4, or of ts_modeling.testing")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--wide", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load(options.child) if options.child.is_dir() else kept_read(options.child)))
        return
    rows = [measure(kind, options.layers, options.wide, options.repeats) for kind in options.formats.split(",")]
    print(f"{'':16} {'':8} | {'cold, seconds':^46} | {'warm, seconds':^46} |")
    columns = f"{'read':>8} {'kept':>8} {'load':>8} {'kept CPU':>9} {'load CPU':>9}"
    print(f"{'format':16} {'file MB':>8} | {columns} | {columns} | held MB  peak MB  ratio")
    for row in rows:
        speeds = " | ".join(
            f"{r['read_s']:8.3f} {r['kept_s']:8.3f} {r['load_s']:8.3f} {r['kept_cpu_s']:9.3f} {r['load_cpu_s']:9.3f}"
            for r in (row["cold"], row["warm"])
        )
        held, peak = row["held_bytes"] / 1e6, row["peak_bytes"] / 1e6
        size = row["file_bytes"] / 1e6
        print(f"{row['format']:16} {size:8.1f} | {speeds} | {held:7.1f} {peak:8.1f} {peak / held:6.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
