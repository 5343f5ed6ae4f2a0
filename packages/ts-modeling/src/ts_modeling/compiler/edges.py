"""Values, their layouts, and the collectives that bring a value to the layout that the next module takes."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from ..errors import CompileError
from ..placement import BATCH_DIMS, REPLICATE, Boundary, Dim, Layout, Mesh, Placement, Shard, Spec, convert, refusal
from .cost import wire_bytes
from .program import Collect, Program, Value


class Edges:
    """Makes the values of one program and converts them, each to one layout once."""

    def __init__(self, mesh: Mesh, *, check_sizes: bool) -> None:
        self.mesh, self.check_sizes = mesh, check_sizes
        self.program = Program(mesh, ())
        self._ids = count()
        self._versions: dict[int, dict[Layout, Value]] = {}

    def value(
        self,
        producer: str,
        dims: tuple[Dim, ...],
        layout: Layout,
        hint: str,
        *,
        expr: str | None = None,
        itemsize: int | None = None,
    ) -> Value:
        """A new value that ``producer`` gives."""
        return Value(next(self._ids), dims, layout, producer, hint, expr, itemsize)

    def like(self, value: Value, dims: tuple[Dim, ...], layout: Layout) -> Value:
        """A new value with what ``value`` holds, elsewhere."""
        return replace(value, id=next(self._ids), dims=dims, layout=layout, expr=None)

    def required(self, spec: Spec, name: str, *, free: Mapping[int, Placement] | None = None) -> Layout:
        """Layout that ``spec`` asks for: what its axes say, and ``free`` (default whole) on the other atoms."""
        kept = renamed(free or {}, spec.batch)
        layout: list[Placement] = [kept.get(a, REPLICATE) for a in range(len(self.mesh.atom_sizes))]
        named: dict[int, tuple[str, Placement]] = {}
        for axis, placement in spec.axes.items():
            for atom in self.mesh.atoms(axis):
                other, said = named.setdefault(atom, (axis, placement))
                if said != placement:
                    raise CompileError(
                        f"{name}: {axis} says {placement} and {other} says {said}, but they share ranks on this mesh; "
                        "annotate one of the two axes"
                    )
                layout[atom] = placement
        self.check_divides(spec.dims, layout, name)
        return tuple(layout)

    def check_divides(self, dims: tuple[Dim, ...], layout: list[Placement], name: str) -> None:
        """Raise ``CompileError`` where the ranks that cut a dimension do not divide it."""
        for dim in dims:
            cut = tuple(i for i, p in enumerate(layout) if p == Shard(dim.name))
            parts = self.mesh.group_size(cut)
            if self.check_sizes and dim.size is not None and (dim.size < parts if dim.uneven else dim.size % parts):
                raise CompileError(
                    f"{name}: {dim} cannot be cut into {parts} parts over {self.mesh.axis_of(cut)}; "
                    f"choose a size that divides {dim.size}"
                )

    def convert(self, value: Value, want: Layout, consumer: str) -> Value:
        """``value`` in the layout ``want``, with the collectives that this takes. Raises ``CompileError``."""
        if value.layout == want:
            return value
        self._check(value, want, consumer)
        versions = self._versions.setdefault(value.id, {value.layout: value})
        if want in versions:
            return versions[want]
        current = self._nearest(versions, want)
        layout = list(current.layout)
        for step in convert(current.layout, want):
            for atom in step.atoms:
                layout[atom] = Shard(step.scatter) if step.scatter else REPLICATE
            self.check_divides(value.dims, layout, f"{value.producer} -> {consumer}")
            out = self.like(value, value.dims, tuple(layout))
            self.program.operations.append(Collect(step, current, out, consumer))
            versions.setdefault(out.layout, out)
            current = out
        return versions[want]

    def _nearest(self, versions: Mapping[Layout, Value], want: Layout) -> Value:
        """The version of a value from which ``want`` takes the fewest bytes: a part of what is gathered is a slice."""

        def sent(version: Value) -> tuple[float, int]:
            steps, total, layout = convert(version.layout, want), 0.0, list(version.layout)
            for step in steps:
                before = replace(version, layout=tuple(layout))
                for atom in step.atoms:
                    layout[atom] = Shard(step.scatter) if step.scatter else REPLICATE
                after = replace(version, layout=tuple(layout))
                total += wire_bytes(Collect(step, before, after, ""), self.program, 1)
            return total, len(steps)

        possible = [
            v for layout, v in versions.items() if all(not refusal(a, b) for a, b in zip(layout, want, strict=True))
        ]
        return min(possible, key=sent)

    def _check(self, value: Value, want: Layout, consumer: str) -> None:
        for atom, (have, need) in enumerate(zip(value.layout, want, strict=True)):
            reason = refusal(have, need)
            if reason:
                producer, axis = value.producer, self.mesh.axis_of((atom,))
                raise CompileError(
                    f"{producer} -> {consumer}: {producer} gives {have} on {axis}, {consumer} takes {need}: {reason}. "
                    f"Declare that {producer} gives {need}, or that {consumer} takes {have}"
                )


def named_atoms(boundary: Boundary, mesh: Mesh) -> set[int]:
    """Atoms of the axes that ``boundary`` says something about."""
    specs = [spec for spec in (*boundary.takes, *boundary.gives) if isinstance(spec, Spec)]
    return {atom for spec in specs for axis in spec.axes for atom in mesh.atoms(axis)}


def renamed(free: Mapping[int, Placement], batch: str | None) -> dict[int, Placement]:
    """``free`` for a tensor whose batch dimension is called ``batch``; None has nothing to cut."""
    out: dict[int, Placement] = {}
    for atom, placement in free.items():
        if isinstance(placement, Shard) and placement.dim in BATCH_DIMS:
            if batch:
                out[atom] = Shard(batch)
        else:
            out[atom] = placement
    return out
