"""Results of ahead-of-time compilation as lines and as a table."""

from collections.abc import Sequence

from ..platform import KB
from ._figures import Figures
from ._runner import Result
from ._targets import Target


def line(result: Result) -> str:
    """One result, and its problems below it."""
    head = f"{result.build.name:44} {result.target.name:7}"
    if result.figures is not None:
        f = result.figures
        share = 100 * f.shared / result.target.shared_limit
        head += f" {f.registers:4} registers {f.spills:5} B spilled {f.shared:7} B shared ({share:3.0f}%)"
    return "\n".join((head + (" ok" if not result.problems else " FAILED"), *(f"    {p}" for p in result.problems)))


def markdown(results: Sequence[Result], targets: Sequence[Target], triton: str) -> str:
    """The table of docs/benchmarks/aot.md: a row a build, a column a target."""
    cells = {(r.build.name, r.target.name): _cell(r) for r in results}
    builds = {r.build.name: r.build for r in sorted(results, key=lambda r: r.build.name)}
    limits = ", ".join(f"{t.name} {t.shared_limit // KB} KB" for t in targets)
    rows = [
        f"| {name} | {b.num_warps} x {b.num_stages} | "
        + " | ".join(cells.get((name, t.name), "not built") for t in targets)
        + " |"
        for name, b in builds.items()
    ]
    return "\n".join((
        "# Triton kernels, compiled ahead of time",
        "",
        f"Made by `ts-kernels aot --markdown FILE`, triton {triton}, without a GPU: nothing here has been timed.\n"
        f"A cell: registers a thread, KB of shared memory a block, and bytes spilled a thread, if any.\n"
        f"Limits: {limits}.",
        "",
        "| build | warps x stages | " + " | ".join(t.name for t in targets) + " |",
        "|---" * (len(targets) + 2) + "|",
        *rows,
        "",
    ))  # fmt: skip


def _cell(result: Result) -> str:
    if result.figures is None:
        return "**does not compile**"
    text = _figures(result.figures)
    return f"**{text}**" if result.problems else text


def _figures(f: Figures) -> str:
    spilled = f", {f.spills} B spilled" if f.spills else ""
    return f"{f.registers} r, {f.shared / KB:.3g} KB{spilled}"
