"""Bars of what ``ts-kernels goals`` measured: each call's share of the floor, kernels side by side.

Usage: python tools/bench/plot_goals.py GOALS.json PLOT.png
"""

import json
import sys
from pathlib import Path


def plot(source: Path, target: Path) -> None:
    """One bar a figure, with its rate written on it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    measured = json.loads(source.read_text())
    figures = [figure for figure in measured["figures"] if not figure["failure"]]
    names = [f"{figure['label']}, {figure['kernel']}" for figure in figures]
    figure, axis = plt.subplots(figsize=(11, 1 + 0.28 * len(names)))
    shown = axis.barh(range(len(names)), [one["percent_of_floor"] for one in figures])
    said = [f"{one['us']:.1f} us, {one['tb_s']:.2f} TB/s, {one['tflops']:.1f} TFLOP/s" for one in figures]
    axis.bar_label(shown, labels=said, fontsize=7, padding=2)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.axvline(100, color="black", lw=1, ls=":")
    axis.set_xlim(0, 160)
    axis.set_xlabel("percent of the floor")
    floor = measured["floor"]
    rates = f"{floor['read'] / 1e12:.2f} TB/s read, {floor['product'] / 1e12:.1f} TFLOP/s in {floor['dtype']}"
    axis.set_title(f"{measured['device']}: {rates}", fontsize=9)
    figure.tight_layout()
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
