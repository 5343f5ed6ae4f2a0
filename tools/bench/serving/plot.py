"""Bars of what the serving benchmark measured.

Usage: uv run python -m tools.bench.serving.plot RESULTS.json PLOT.png
"""

import json
import sys
import textwrap
from pathlib import Path

from tools.bench.serving import scenarios


def plot(source: Path, target: Path) -> None:
    """One group of bars a scenario, one bar a server, on a logarithmic axis; the figure asked for is a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    record = json.loads(source.read_text())
    servers = record["tokens a second"]
    cases = [s for s in scenarios.SCENARIOS if s.name in servers["ts-entry"]]
    figure, axes = plt.subplots(figsize=(11, 4.5))
    width = 0.8 / len(servers)
    for number, (server, figures) in enumerate(servers.items()):
        at = [i + number * width for i, case in enumerate(cases) if case.name in figures]
        bars = axes.bar(at, [figures[c.name] for c in cases if c.name in figures], width, label=server, align="edge")
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    for i, case in enumerate(cases):
        if case.target:
            axes.hlines(case.target, i, i + 0.8, color="black", lw=1, ls=":", label="" if i else "aim")
    axes.set_xticks([i + 0.4 for i in range(len(cases))], [textwrap.fill(c.name, 24) for c in cases], fontsize=7)
    axes.set(yscale="log", ylabel="tokens a second")
    machine = record["machine"]
    axes.set_title("Bundled miniature through HTTP: " + ", ".join(machine[k] for k in ("processor", "cores", "date")))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
