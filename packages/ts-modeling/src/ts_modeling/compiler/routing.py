"""Dispatch: the rows of a routed module travel to the ranks of their experts, instead of being gathered on all of them.

A module that takes ``Replicate()`` and gives ``Partial(sum)`` on its routed axis gives zeros for rows without an id of
the rank. So it may as well take the rows that have one, cut as they came (``copies``), and the sum over the axis is the
sum over the copies of a row. What it says about other axes stays as it is.
"""

from collections.abc import Mapping

from ..errors import CompileError
from ..placement import COPIES, Boundary, Dim, Layout, Mesh, Opaque, Partial, Placement, Replicate, Routed, Shard, Spec
from .edges import Edges
from .program import Combine, Dispatch, Value


def check_routed(path: str, boundary: Boundary, mesh: Mesh, *, check_sizes: bool) -> None:
    """Raise ``CompileError`` where ``routed`` does not fit the rest of ``boundary``, or its count the mesh."""
    routed = boundary.routed
    if routed is None:
        return
    takes = [spec for spec in boundary.takes if isinstance(spec, Spec)]
    whole = all(spec.axes.get(routed.axis) == Replicate() and spec.batch for spec in takes)
    summed = all(spec.axes.get(routed.axis) == Partial() and spec.batch for spec in boundary.gives)
    if len(takes) != len(boundary.takes) or not whole or not summed or len(boundary.gives) != 1:
        raise CompileError(
            f"{path}: is routed over {routed.axis}, so each argument has to be a batch with {routed.axis}=Replicate() "
            f"and its one result a batch with {routed.axis}=Partial(sum); change the annotation, or leave out routed"
        )
    _check_rows(path, routed, takes)
    parts = mesh.size(routed.axis)
    if check_sizes and routed.count % parts:
        fitting = [n for n in range(1, routed.count + 1) if routed.count % n == 0]
        raise CompileError(
            f"{path}: the {routed.count} that it is routed among cannot be cut into {parts} equal parts over "
            f"{routed.axis}; {routed.axis} may be {', '.join(map(str, fitting))}"
        )


def _check_rows(path: str, routed: Routed, takes: list[Spec]) -> None:
    """Rows travel as bytes side by side, with the ids among them."""
    if routed.count < 1 or not 0 <= routed.ids < len(takes):
        raise CompileError(
            f"{path}: {routed}: ids is the number of an argument, 0 to {len(takes) - 1}, and count at least 1"
        )
    for number, spec in enumerate(takes):
        if len(spec.dims) != 2 or spec.dims[1].size is None:
            raise CompileError(
                f"{path}: is routed over {routed.axis}, so argument {number} has to be [batch, columns], of a known "
                f"number of columns, not {spec}; join its other dimensions into one, or leave out routed"
            )


def before_dispatch(spec: Spec, routed: Routed) -> Spec:
    """``spec`` of an argument whose batch is cut over the routed axis."""
    return spec.of_rows(spec.dims[0], **{routed.axis: Shard(spec.dims[0].name)})


def dispatched(boundary: Boundary) -> Boundary:
    """``boundary`` for rows that came by dispatch."""
    routed = boundary.routed
    assert routed

    def copies(spec: Spec) -> Spec:
        return spec.of_rows(COPIES, **{routed.axis: Shard(COPIES.name)})

    takes = tuple(spec if isinstance(spec, Opaque) else copies(spec) for spec in boundary.takes)
    return Boundary(takes, tuple(map(copies, boundary.gives)), boundary.linear, boundary.names)


def dispatch(edges: Edges, routed: Routed, sources: tuple[Value, ...], consumer: str) -> Dispatch:
    """Send ``sources``, whose batch is cut over the routed axis."""
    atoms = edges.mesh.atoms(routed.axis)
    outs = [edges.like(v, (COPIES, *v.dims[1:]), _as(v.layout, v.dims[0], COPIES)) for v in sources]
    nowhere: Layout = tuple(Replicate() for _ in edges.mesh.atom_sizes)
    outs.append(edges.value(consumer, (), nowhere, "route"))
    op = Dispatch(routed, atoms, sources, tuple(outs), consumer)
    edges.program.operations.append(op)
    return op


def combine(edges: Edges, sent: Dispatch, result: Value) -> Value:
    """Bring ``result`` back to the ranks that sent its rows."""
    batch = sent.first.dims[0]
    out = edges.like(result, (batch, *result.dims[1:]), _as(result.layout, COPIES, batch))
    edges.program.operations.append(Combine(sent, result, out))
    return out


def may_dispatch(boundary: Boundary, mesh: Mesh) -> bool:
    """Whether there is anywhere to send rows to."""
    return boundary.routed is not None and mesh.size(boundary.routed.axis) > 1


def _as(layout: Layout, old: Dim, new: Dim) -> Layout:
    swap: Mapping[Placement, Placement] = {Shard(old.name): Shard(new.name)}
    return tuple(swap.get(p, p) for p in layout)
