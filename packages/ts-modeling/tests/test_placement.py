"""The placement algebra: its laws on random meshes and layouts, with every rank of a world simulated in one process."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ts_modeling import MeshError, PlacementError
from ts_modeling.communication.dispatch import rows_for
from ts_modeling.layers import Linear
from ts_modeling.placement import (
    AXES,
    Dim,
    Layout,
    Mesh,
    Partial,
    Placement,
    Replicate,
    Shard,
    Step,
    convert,
    part_of,
    refusal,
    token_extent,
)

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


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Mesh, tuple[int, ...]]:
    """A mesh with attention over two axes, perhaps refined by the experts', and tokens of each group, none perhaps."""
    axes = {axis: draw(st.sampled_from([1, 2, 3, 4])) for axis in ("attn_dp", "attn_tp")}
    world = prod(axes.values())
    axes["moe_tp"] = draw(st.sampled_from([n for n in (1, 2, 4) if world % n == 0]))
    try:
        mesh = Mesh(world, axes)
    except MeshError:
        mesh = Mesh(world, {**axes, "moe_tp": 1})
    return mesh, tuple(draw(st.integers(0, 9)) for _ in range(axes["attn_dp"]))


def cuts(mesh: Mesh) -> list[tuple[int, ...]]:
    every = range(len(mesh.atom_sizes))
    return [tuple(a for a in every if number >> a & 1) for number in range(1 << len(mesh.atom_sizes))]


@given(worlds())
def test_every_token_is_held_once_however_tokens_are_cut(case: tuple[Mesh, tuple[int, ...]]) -> None:
    """Ranks that differ in the cut atoms hold all tokens together, in parts that differ by one where a group is cut."""
    mesh, sizes = case
    for cut in cuts(mesh):
        for rank in range(mesh.world):
            lengths = [token_extent(mesh, cut, r).of(sizes) for r in mesh.group(cut, rank)]
            assert sum(lengths) == sum(sizes)
            inner = tuple(a for a in cut if a not in mesh.atoms("attn_dp"))
            parts = [token_extent(mesh, cut, r).of(sizes) for r in mesh.group(inner, rank)]
            assert max(parts) - min(parts) <= 1 or len(inner) > 1


@given(worlds())
def test_parts_of_a_fast_atom_add_up_to_the_part_that_they_were_cut_from(case: tuple[Mesh, tuple[int, ...]]) -> None:
    """So gathering the fastest atoms first gives the parts that the slower ones cut."""
    mesh, sizes = case
    for cut in cuts(mesh):
        for kept in range(len(cut)):
            slow, fast = cut[:kept], cut[kept:]
            for rank in range(mesh.world):
                parts = [token_extent(mesh, cut, r).of(sizes) for r in mesh.group(fast, rank)]
                assert sum(parts) == token_extent(mesh, slow, rank).of(sizes)


@given(worlds(), st.integers(0, 100))
def test_an_uneven_dimension_is_held_once_in_parts_that_differ_by_one(
    case: tuple[Mesh, tuple[int, ...]], size: int
) -> None:
    """In rank order, and cut by a fast atom within the part that the slower ones cut."""
    mesh, _ = case
    for cut in cuts(mesh):
        for rank in range(mesh.world):
            parts = [part_of(mesh, cut, size, r) for r in mesh.group(cut, rank)]
            assert [start for start, _ in parts] == [sum(n for _, n in parts[:i]) for i in range(len(parts))]
            assert sum(n for _, n in parts) == size
            assert all(n in (size // len(parts), -(-size // len(parts))) for _, n in parts)
            slow, fast = cut[:-1], cut[-1:]
            within = [part_of(mesh, cut, size, r)[1] for r in mesh.group(fast, rank)]
            assert sum(within) == part_of(mesh, slow, size, rank)[1]


@settings(deadline=None, max_examples=25)
@given(cases(1))
def test_a_cut_value_comes_back_from_the_whole(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    """Converting to the whole and slicing is the way back: the steps of a round trip give what each rank had."""
    sizes, (layout,) = case
    if any(isinstance(p, Partial) for p in layout):
        return
    world, value = World(sizes), random_value()
    whole: Layout = tuple(Replicate() for _ in sizes)
    held = world.hold(value, layout)
    there = held
    for step in (*convert(layout, whole), *convert(whole, layout)):
        there = world.apply(step, there)
    for rank in world.ranks:
        torch.testing.assert_close(there[rank], held[rank])


@settings(deadline=None, max_examples=25)
@given(cases(2))
def test_pending_sums_may_be_added_before_they_are_reduced(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    """Conversions are linear where they only sum and move: that is what lets one reduction serve two branches."""
    sizes, (source, target) = case
    if Partial("max") in source or not allowed(source, target):
        return
    world = World(sizes)
    one, other = world.hold(random_value(), source), world.hold(random_value() * 3 + 1, source)
    both = {rank: one[rank] + other[rank] for rank in world.ranks}
    for step in convert(source, target):
        one, other, both = world.apply(step, one), world.apply(step, other), world.apply(step, both)
    for rank in world.ranks:
        torch.testing.assert_close(both[rank], one[rank] + other[rank])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(0, 1 << 30))
def test_dispatch_gives_what_gathering_gives(rows: int, ranks: int, chosen: int, seed: int) -> None:
    """A module with work for its own experts alone, on dispatched rows summed over copies, is that on all rows."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randint(-9, 9, (rows, 3), generator=generator).double()
    ids_Tk = torch.stack(
        [torch.randperm(8, generator=generator)[:chosen] for _ in range(rows)] or [torch.zeros(chosen)]
    )
    ids_Tk = ids_Tk[:rows].to(torch.int32)
    experts_E = torch.randint(-9, 9, (8,), generator=generator).double()

    def module(rank: int, x: Tensor, ids: Tensor) -> Tensor:
        mine = (ids.long() // (8 // ranks)) == rank
        return x * (experts_E[ids.long()] * mine).sum(1, keepdim=True)

    gathered = sum((module(rank, x_TD, ids_Tk) for rank in range(ranks)), torch.zeros_like(x_TD))
    combined = torch.zeros_like(x_TD)
    for rank, there in enumerate(rows_for(ids_Tk, 8 // ranks, ranks)):
        combined.index_add_(0, there, module(rank, x_TD[there], ids_Tk[there]))
    torch.testing.assert_close(combined, gathered)


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (lambda mesh: Linear(Dim("a", 8), Dim("b", 12), {"w": 12}, mesh, columns="attn_tp"), "1, 2, 3, 4, 6, 12$"),
        (lambda mesh: Linear(Dim("a", 12), Dim("b", 8), {"w": 8}, mesh, rows="attn_tp"), "1, 2, 3, 4, 6, 12$"),
    ],
)
def test_a_mesh_that_does_not_divide_says_which_sizes_do(build: Any, sizes: str) -> None:
    with pytest.raises(MeshError, match=f"does not divide over attn_tp=5; sizes of attn_tp that fit: {sizes}"):
        build(Mesh(5, {"attn_tp": 5}))
