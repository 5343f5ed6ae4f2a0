"""Bars of what the kernel benchmarks measured on a CPU: ratios to torch and llama.cpp, shares of the read bandwidth.

Usage: uv run python -m tools.bench.plot_kernels FOLDER PLOT.png [MACHINE]
FOLDER holds kernels-gemv.json (one row), kernels-gemm.json, kernels-attention.json and kernels-llama.json, as the
benchmarks' --json writes them; with MACHINE kernels-gemv-MACHINE.json and so on.
"""

import json
import sys
from pathlib import Path
from typing import Any

Bars = list[tuple[str, float]]


def plot(folder: Path, target: Path, machine: str = "") -> None:
    """Three charts: faster than torch, faster than llama.cpp, share of what memory or arithmetic give."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    files = [f"kernels-{name}{machine and '-'}{machine}.json" for name in ("gemv", "gemm", "attention", "llama")]
    gemv, gemm, attention, llama = (json.loads((folder / file).read_text()) for file in files)
    to_torch = [(case["case"], case["torch_us"] / case["us"]) for case in attention if case.get("torch_us")]
    of_floor = [(case["case"], share(case)) for case in attention if "gb_s" in case]
    charts = (
        ("times torch's speed", products(gemv, "torch_ratio") + products(gemm, "torch_ratio", 512) + to_torch),
        ("times llama.cpp's speed", [(line["what"], line["ratio"]) for line in llama["lines"]]),
        ("share of the bandwidth (MLA: of the floor)", products(gemv, "share_of_read") + of_floor),
    )
    figure, axes = plt.subplots(1, 3, figsize=(17, 9))
    for axis, (title, bars) in zip(axes, charts, strict=True):
        shown = axis.barh([name for name, _ in bars], [value for _, value in bars])
        axis.bar_label(shown, fmt="{:.2f}", fontsize=7)
        axis.axvline(1.0, color="black", lw=1, ls=":")
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(title, fontsize=9)
    figure.suptitle(f"ts-kernels on a CPU ({gemm['isa']}, {gemm['threads']} threads)", fontsize=10)
    figure.tight_layout()
    figure.savefig(target, dpi=100)


def share(case: dict[str, Any]) -> float:
    """Of the floor, where arithmetic can be it, else of the bandwidth."""
    percent = case.get("percent_of_floor")
    return float(case["gb_s"] / case["bandwidth"] if percent is None else percent / 100)


def products(gemm: dict[str, Any], figure: str, only: int | None = None) -> Bars:
    """A figure of every linear layer, torch's own left out."""
    rows = [row for row in gemm["rows"] if row["weights"] != "torch" and only in (None, row["rows"])]
    return [(f"{row['weights']} x {row['dtype']}, {row['rows']:.0f} rows", row[figure]) for row in rows]


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
