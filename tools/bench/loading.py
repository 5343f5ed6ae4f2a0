"""How fast a checkpoint becomes a model, against a plain read of the same file, and the memory that it takes.

Usage: uv run python tools/bench/loading.py [--formats plain,int4,fp8-block] [--layers 2] [--wide 4] [--json FILE]

Makes a random DeepSeek V3 in a temporary folder: of matrices near the size of a real model's (2,048 x 4,096 in an
expert), or with ``--layers 16 --wide 1`` of many that are a sixteenth of that, where Python shows. It loads that in a
fresh process: with the file dropped from the page cache (cold; the system may ignore that) and with it there (warm). It
is held against two plain reads: 8 MiB at a time into one buffer, and, in a fresh process as well, into new memory of
the file's size, which whoever keeps the weights cannot do without (in a virtual machine its price depends on whether
the host has it at hand, so the two come in random order). Seconds are the best and the median of all runs, CPU (of all
threads, which a busy machine changes less), user CPU and minor page faults the median; a format's lines are printed
once it is done. Peak is the process's largest resident set above that before loading, mapped pages of the file
included; held is what is resident above it afterwards, so the prepared weights.
"""

import argparse
import gc
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

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


def resident(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) << 10


def forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Meter:
    """Seconds, CPU and minor page faults of this process from here on."""

    def __init__(self) -> None:
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._start = perf_counter()

    def read(self) -> dict[str, float]:
        """By name."""
        seconds, before, now = perf_counter() - self._start, self._usage, resource.getrusage(resource.RUSAGE_SELF)
        user = now.ru_utime - before.ru_utime
        cpu = user + now.ru_stime - before.ru_stime
        return {"seconds": seconds, "cpu_s": cpu, "user_s": user, "faults": now.ru_minflt - before.ru_minflt}


def plain_read(path: Path, *, keep: bool) -> dict[str, float]:
    """What it takes to read a file from end to end, into new memory if it is kept."""
    size = path.stat().st_size
    meter = Meter()
    whole = np.empty(size if keep else CHUNK, np.uint8).data
    at = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(whole[at : at + CHUNK]):
            at += got if keep else 0
    return meter.read()


def load(folder: Path) -> dict[str, float]:
    """What loading takes in this process, and bytes read, held and at the peak."""
    config = read_config(folder)
    device = torch.device("cpu")
    with torch.no_grad():
        built = build(config, Mesh.single(), dtype=torch.float32, device=device, positions=64)
        table = table_of(config)
        torch.randn(256, 256) @ torch.randn(256, 256)  # threads and their stacks
        gc.collect()  # searching all that the imports made takes 0.1 s, and would happen at some point of the loading
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        meter = Meter()
        done = load_weights(built.model, CheckpointFolder(folder), table, device=device, progress=None)
        taken = meter.read()
    peak, held = resident("VmHWM") - before, resident("VmRSS") - before
    return {**taken, "read_bytes": done, "peak_bytes": peak, "held_bytes": held}


def in_fresh_process(path: Path) -> dict[str, float]:
    """``load`` of a folder elsewhere, or ``plain_read`` of a file into memory that is kept."""
    command = [sys.executable, __file__, "--child", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out))


def _after(path: Path, state: str, call: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``call`` gives, the file dropped before if it is to be cold."""
    if state == "cold":
        forget(path)
    return call()


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of several runs: the best and the median time, and the median of what else they took."""
    middle = {name: median(run[name] for run in runs) for name in ("seconds", "cpu_s", "user_s", "faults")}
    return {"best_s": min(run["seconds"] for run in runs), "median_s": middle.pop("seconds"), **middle}


def measure(kind: str, layers: int, wide: int, repeats: int) -> dict[str, Any]:
    """One format: summaries of ``repeats`` runs cold and warm, and the largest peak."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        chosen: dict[str, Any] = {"plain": {"int4": False}, "int4": {"int4": True}}.get(kind, {"quantization": kind})
        sizes = {name: size * wide if name in WIDTHS else size for name, size in SIZES.items()}
        write_checkpoint(folder, **chosen, **sizes, num_hidden_layers=layers)
        path = folder / "model.safetensors"
        row: dict[str, Any] = {"format": kind, "file_bytes": path.stat().st_size}
        calls: dict[str, Callable[[], dict[str, float]]] = {
            "read": lambda: plain_read(path, keep=False),
            "kept": lambda: in_fresh_process(path),
            "load": lambda: in_fresh_process(folder),
        }
        loads: list[dict[str, float]] = []
        for state in ("cold", "warm"):
            order = [what for what in calls for _ in range(repeats)]
            random.shuffle(order)
            runs: dict[str, list[dict[str, float]]] = {what: [] for what in calls}
            for what in order:
                runs[what].append(_after(path, state, calls[what]))
            row[state] = {what: summary(of_one) for what, of_one in runs.items()}
            loads += runs["load"]
        row["held_bytes"] = max(run["held_bytes"] for run in loads)
        row["peak_bytes"] = max(run["peak_bytes"] for run in loads)
    return row


def show(row: dict[str, Any]) -> None:
    """Print one format's lines."""
    held, peak = row["held_bytes"] / 1e6, row["peak_bytes"] / 1e6
    print(
        f"{row['format']}: file {row['file_bytes'] / 1e6:.1f} MB, held {held:.1f}, peak {peak:.1f} ({peak / held:.2f})"
    )
    for state in ("cold", "warm"):
        for name, taken in row[state].items():
            print(
                f"  {state} {name}: {taken['best_s']:7.3f} s best, {taken['median_s']:7.3f} median; CPU "
                f"{taken['cpu_s']:6.3f} s, user {taken['user_s']:6.3f}, {taken['faults']:7.0f} faults"
            )
        kept, load = row[state]["kept"], row[state]["load"]
        shares = (100 * kept[of] / load[of] for of in ("best_s", "median_s"))
        print(
            "  {} load at {:.0f}% of a kept read by the best, {:.0f}% by the median".format(state, *shares), flush=True
        )


def main() -> None:
    """Print each format as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="plain,int4,fp8-block", help="plain, int4, or of ts_modeling.testing")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--wide", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        taken = load(options.child) if options.child.is_dir() else plain_read(options.child, keep=True)
        print(json.dumps(taken))
        return
    rows = []
    for kind in options.formats.split(","):
        rows.append(measure(kind, options.layers, options.wide, options.repeats))
        show(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
