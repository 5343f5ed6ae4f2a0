"""The placement algebra: its laws on random meshes and layouts, with every rank of a world simulated in one process."""

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ts_modeling import MeshError, PlacementError
from ts_modeling.placement import AXES, Layout, Mesh, Partial, Placement, Replicate, Shard, Step, convert, refusal

DIMS = ("tokens", "hidden", "heads")
PLACEMENTS: list[Placement] = [Replicate(), *map(Shard, DIMS), Partial("sum"), Partial("max")]
EXTENT = 72  # every mesh of at most 12 ranks cuts it evenly, as a layout has to


class World:
    """All ranks' local tensors, and what each collective does to them, written from the definitions."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.ranks = list(product(*map(range, sizes)))

    def hold(self, value: Tensor, layout: Layout) -> dict[tuple[int, ...], Tensor]:
        """Local tensors of ``layout`` whose value is ``value``."""
        locals_ = dict.fromkeys(self.ranks, value)
        for rank in self.ranks:
            for i, p in enumerate(layout):
                if isinstance(p, Shard):
                    dim = DIMS.index(p.dim)
                    locals_[rank] = locals_[rank].chunk(self.sizes[i], dim)[rank[i]]
                elif p == Partial("sum") and rank[i] > 0:
                    locals_[rank] = torch.full_like(locals_[rank], 0.0)
                elif p == Partial("max") and rank[i] > 0:
                    locals_[rank] = torch.full_like(locals_[rank], -1e9)
        return self.spread(locals_, layout)

    def spread(self, locals_: dict[tuple[int, ...], Tensor], layout: Layout) -> dict[tuple[int, ...], Tensor]:
        """Move a share of every sum to the other ranks, so that no rank holds the value alone."""
        out = dict(locals_)
        for i, p in enumerate(layout):
            if p != Partial("sum"):
                continue
            for rank in self.ranks:
                group = [
                    r for r in self.ranks if all(a == b for j, (a, b) in enumerate(zip(r, rank, strict=True)) if j != i)
                ]
                if rank == group[0]:
                    share = out[rank] / len(group)
                    for member in group:
                        out[member] = out[member] * 0 + share
        return out

    def apply(self, step: Step, held: dict[tuple[int, ...], Tensor]) -> dict[tuple[int, ...], Tensor]:
        out: dict[tuple[int, ...], Tensor] = {}
        for rank in self.ranks:
            same = [r for r in self.ranks if all(r[i] == rank[i] for i in range(len(rank)) if i not in step.atoms)]
            me = same.index(rank)
            out[rank] = self._one(step, [held[r] for r in same], me)
        return out

    def _one(self, step: Step, parts: list[Tensor], me: int) -> Tensor:
        n = len(parts)
        if step.kind == "slice":
            return parts[me].chunk(n, DIMS.index(str(step.scatter)))[me]
        if step.kind == "all_gather":
            return torch.cat(parts, DIMS.index(str(step.gather)))
        if step.kind == "all_to_all":
            cut = [part.chunk(n, DIMS.index(str(step.scatter)))[me] for part in parts]
            return torch.cat(cut, DIMS.index(str(step.gather)))
        stacked = torch.stack(parts)
        reduced = stacked.sum(0) if step.op == "sum" else stacked.amax(0)
        if step.kind == "all_reduce":
            return reduced
        return reduced.chunk(n, DIMS.index(str(step.scatter)))[me]

    def value(self, held: dict[tuple[int, ...], Tensor], layout: Layout) -> Tensor:
        """The value that the ranks hold together."""
        for i in reversed(range(len(layout))):
            p = layout[i]
            merged: dict[tuple[int, ...], Tensor] = {}
            for head in {r[:i] for r in held}:
                parts = [held[*head, k] for k in range(self.sizes[i])]
                merged[head] = {
                    Replicate: lambda parts=parts: parts[0],
                    Shard: lambda parts=parts, p=p: torch.cat(parts, DIMS.index(getattr(p, "dim", "tokens"))),
                    Partial: lambda parts=parts, p=p: (
                        torch.stack(parts).sum(0) if p == Partial("sum") else torch.stack(parts).amax(0)
                    ),
                }[type(p)]()
            held = merged
        return held[()]


atoms = st.lists(st.sampled_from([2, 3]), min_size=1, max_size=3).map(tuple).filter(lambda s: prod(s) <= 12)


@st.composite
def cases(draw: st.DrawFn, layouts: int) -> tuple[tuple[int, ...], list[Layout]]:
    sizes = draw(atoms)
    one = st.tuples(*[st.sampled_from(PLACEMENTS)] * len(sizes))
    return sizes, [draw(one) for _ in range(layouts)]


def consistent(layout: Layout) -> bool:
    """Sums of maxima have no single meaning; a layout has one kind of Partial."""
    return not {Partial("sum"), Partial("max")} <= set(layout)


def random_value() -> Tensor:
    return torch.randint(-64, 64, (EXTENT, EXTENT, EXTENT), generator=torch.Generator().manual_seed(0)).double() * 12


def allowed(source: Layout, target: Layout) -> bool:
    return all(refusal(a, b) is None for a, b in zip(source, target, strict=True))


@given(cases(1))
def test_identity_needs_no_steps(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    _, (layout,) = case
    assert convert(layout, layout) == ()


@settings(deadline=None, max_examples=50)
@given(cases(2))
def test_steps_move_the_value(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    """After the steps every rank has the shape of the target, and the ranks together hold the same value."""
    sizes, (source, target) = case
    if not allowed(source, target) or not consistent(source):
        return
    world, value = World(sizes), random_value()
    held = world.hold(value, source)
    torch.testing.assert_close(world.value(held, source), value)
    for step in convert(source, target):
        held = world.apply(step, held)
    torch.testing.assert_close(world.value(held, target), value)
    reference = world.hold(value, target)
    for rank in world.ranks:
        assert held[rank].shape == reference[rank].shape
        if not any(isinstance(p, Partial) for p in target):
            torch.testing.assert_close(held[rank], reference[rank])


@settings(deadline=None, max_examples=50)
@given(cases(3))
def test_composition_equals_the_direct_way(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    sizes, (first, middle, last) = case
    if not (allowed(first, middle) and allowed(middle, last) and consistent(first)):
        return
    assert allowed(first, last)
    world, value = World(sizes), random_value()
    direct = by_way = world.hold(value, first)
    for step in convert(first, last):
        direct = world.apply(step, direct)
    for step in (*convert(first, middle), *convert(middle, last)):
        by_way = world.apply(step, by_way)
    torch.testing.assert_close(world.value(direct, last), world.value(by_way, last))


@given(cases(2))
def test_refused_exactly_where_the_table_says(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    _, (source, target) = case
    into_partial = any(isinstance(b, Partial) and a != b for a, b in zip(source, target, strict=True))
    if into_partial:
        with pytest.raises(PlacementError, match=r"Partial"):
            convert(source, target)
    else:
        convert(source, target)


@pytest.mark.parametrize(
    ("source", "target", "kinds"),
    [
        (Partial(), Replicate(), ["all_reduce"]),
        (Partial(), Shard("tokens"), ["reduce_scatter"]),
        (Shard("tokens"), Replicate(), ["all_gather"]),
        (Shard("tokens"), Shard("heads"), ["all_to_all"]),
        (Replicate(), Shard("heads"), ["slice"]),
    ],
)
def test_one_axis_takes_one_collective(source: Placement, target: Placement, kinds: list[str]) -> None:
    assert [step.kind for step in convert((source,), (target,))] == kinds


def test_atoms_refine_both_views() -> None:
    mesh = Mesh(8, {"attn_dp": 4, "attn_tp": 2, "moe_ep": 2, "moe_tp": 4})
    assert mesh.atom_sizes == (2, 2, 2)
    assert mesh.atoms("attn_dp") == (0, 1)
    assert mesh.atoms("attn_tp") == (2,)
    assert mesh.atoms("moe_tp") == (1, 2)
    assert mesh.group(mesh.atoms("moe_tp"), 5) == (4, 5, 6, 7)
    assert mesh.group(mesh.atoms("attn_dp"), 5) == (1, 3, 5, 7)
    assert mesh.axis_of((0,)) == "moe_ep"
    assert Mesh.single().atom_sizes == ()


@given(st.fixed_dictionaries({axis: st.sampled_from([1, 2, 3, 4]) for axis in AXES}), st.integers(0, 40))
def test_every_mesh_partitions_its_world_or_names_an_axis(axes: dict[str, int], rank: int) -> None:
    world = axes["attn_dp"] * axes["attn_tp"]
    reason = ""
    try:
        mesh = Mesh(world, axes, rank % world)
    except MeshError as error:
        reason = str(error)
    if reason:
        assert any(axis in reason for axis in AXES)
        return
    assert prod(mesh.atom_sizes) == world
    for axis in AXES:
        groups = {mesh.group(mesh.atoms(axis), r) for r in range(world)}
        assert sorted(r for g in groups for r in g) == list(range(world))
        assert {len(g) for g in groups} == {axes[axis]}
        for group in groups:
            assert [mesh.index(mesh.atoms(axis), r) for r in group] == list(range(len(group)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_tp=four", "attn_tp=four"),
        ("attn_tp=2,attn_tp=2", "twice"),
        ("tp=2", "unknown axis 'tp'"),
        ("attn_tp=2,moe_tp=3", "attn_dp=1 x attn_tp=2 makes 2, which does not divide"),
        ("attn_tp=2,moe_tp=4", "set attn_dp=2"),
        ("attn_tp=0", "attn_tp=0"),
        ("attn_dp=3,attn_tp=2,moe_tp=3,moe_ep=2", "no common refinement"),
    ],
)
def test_bad_meshes_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(MeshError, match="mesh") as caught:
        Mesh.parse(text)
    assert message in str(caught.value)
