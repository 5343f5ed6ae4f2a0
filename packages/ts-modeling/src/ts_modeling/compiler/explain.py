"""The compiled plan for a person: every step, and what each collective moves."""

import re
from collections.abc import Iterator
from itertools import groupby

from ..kv import KvSpec
from ..layers.moe import ExpertsWithShared
from ..placement import Step
from .cost import wire_bytes
from .lower import section
from .program import (
    Add,
    Collect,
    Communication,
    FusedNorm,
    Operation,
    Program,
    Start,
    Wait,
    call_of,
    collective_of,
    edge_of,
)
from .summary import Summary, row_of, summarize


def explain(program: Program, *, itemsize: int, kv: KvSpec | None = None, every: bool = False) -> str:
    """One line a step, and collectives with the bytes that each rank sends.

    Layers that are alike are told once, unless ``every`` asks for each. ``kv`` is what a rank caches.
    """
    figures = summarize(program, itemsize=itemsize, kv=kv)
    lines = [f"mesh: world of {figures.world} ({figures.mesh}); {figures.policy}"]
    lines += _body(program, itemsize, every)
    return "\n".join([*lines, *_totals(figures, itemsize)]) + "\n"


def difference(one: Summary, other: Summary) -> str:
    """Two plans side by side, with the ratio where both have a figure."""
    rows: list[tuple[str, float, float]] = [("ranks", one.world, other.world)]
    for kind in sorted({*one.collectives, *other.collectives}):
        rows.append((f"{kind} steps", one.collectives.get(kind, 0), other.collectives.get(kind, 0)))
    for title, name in (
        ("steps fused with a norm", "fused"),
        ("steps beside a module", "overlapped"),
        ("bytes a rank sends a token", "bytes_per_token"),
        ("bytes a rank sends a sample", "bytes_per_sample"),
        ("weight bytes a rank", "weight_bytes"),
        ("KV bytes a token and rank", "kv_bytes_per_token"),
        ("state bytes a request and rank", "state_bytes_per_request"),
    ):
        rows.append((title, getattr(one, name) or 0, getattr(other, name) or 0))
    lines = [f"a: {one.mesh}; {one.policy}", f"b: {other.mesh}; {other.policy}"]
    lines.append(f"{'':<30} {'a':>20} {'b':>20} {'b / a':>8}")
    for title, a, b in rows:
        ratio = f"{b / a:8.2f}" if a and b else f"{'':>8}"
        lines.append(f"{title:<30} {a:>20,.0f} {b:>20,.0f} {ratio}".rstrip())
    return "\n".join(lines) + "\n"


def _totals(figures: Summary, itemsize: int) -> Iterator[str]:
    sums = {"token": figures.bytes_per_token, "sample": figures.bytes_per_sample}
    sent = " and ".join(f"{total:,.0f} bytes a {row}" for row, total in sums.items() if total) or "nothing"
    kinds = ", ".join(f"{count} {kind}" for kind, count in figures.collectives.items())
    number = sum(figures.collectives.values())
    yield f"{number} collectives{f' ({kinds})' if kinds else ''}; each rank sends {sent} of the whole batch, " + (
        f"{itemsize} an element of an activation"
    )
    yield f"weights: {figures.weight_bytes / 2**20:,.1f} MiB on each rank"
    if figures.kv_bytes_per_token is not None:
        states = figures.state_bytes_per_request
        also = f", {states:,} bytes of states for each request" if states else ""
        yield f"cache: {figures.kv_bytes_per_token:,} bytes on each rank for each token of its attn_dp group{also}"


def _body(program: Program, itemsize: int, every: bool) -> Iterator[str]:
    blocks: list[tuple[str, list[str]]] = []
    for op in program.operations:
        name = section(op) or (blocks[-1][0] if blocks else "")
        if not blocks or blocks[-1][0] != name:
            blocks.append((name, []))
        blocks[-1][1].extend(_lines(op, program, itemsize))
    if every:
        for name, lines in blocks:
            yield from (name, *map(_aligned, lines))
        return
    alike = groupby(blocks, key=lambda block: [_generic(line, block[0]) for line in block[1]])
    for lines, group in alike:
        names = [name for name, _ in group]
        yield names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} alike"
        yield from map(_aligned, lines)


def _aligned(line: str) -> str:
    left, bar, right = line.partition(" | ")
    return f"{left:<30} {right}" if bar else line


def _generic(line: str, name: str) -> str:
    """``line`` with the layer's own path left out, and other layers told relative to it."""
    own = re.fullmatch(r"layers\.(\d+)", name)
    if own is None:
        return line.replace(f" {name}.", " ")
    here = int(own[1])

    def relative(match: re.Match[str]) -> str:
        away = int(match[1]) - here
        return "" if away == 0 else f"layers.N{away:+d}."

    return re.sub(r"layers\.(\d+)\.", relative, line)


def _lines(op: Operation, program: Program, itemsize: int) -> Iterator[str]:
    collect = collective_of(op)
    if collect:
        begun = ", begun here" if isinstance(op, Start) else ""
        yield _collective_line(collect, program, wire_bytes(collect, program, itemsize)) + begun
    call = call_of(op)
    if call:
        outs = "; ".join(f"[{', '.join(map(str, v.dims))}] {_layout(v.layout)}" for v in call.outs)
        fused = f", one step with the {op.collect.kind}" if isinstance(op, FusedNorm) else ""
        joined = ", one call with the shared expert" if isinstance(call.leaf, ExpertsWithShared) else ""
        yield f"    {call.path} | {outs}{fused}{joined}"
    if isinstance(op, Add):
        yield f"    + | {_layout(op.out.layout)}"
    if isinstance(op, Wait):
        yield f"    (the {op.start.op.kind} is waited for)"


def _collective_line(op: Communication, program: Program, moved: float) -> str:
    mesh = program.mesh
    own = ""
    if isinstance(op, Collect):
        atoms, what = op.step.atoms, f" [{_describe(op.step)}]"
        own = f", {op.source.itemsize} an element" if op.source.itemsize else ""
    else:
        atoms, what = (op if op.kind == "dispatch" else op.dispatch).atoms, ""  # type: ignore[union-attr]
    over = f"{mesh.axis_of(atoms)} ({mesh.group_size(atoms)} ranks)"
    return f"  * {op.kind}{what} over {over}: {moved:,.0f} bytes a {row_of(op)}{own}; {edge_of(op)}"


def _describe(step: Step) -> str:
    parts = [f"gather {step.gather}" if step.gather else "", f"cut {step.scatter}" if step.scatter else ""]
    return ", ".join(filter(None, (*parts, step.op)))


def _layout(layout: tuple[object, ...]) -> str:
    return " x ".join(map(str, layout)) or "whole"
