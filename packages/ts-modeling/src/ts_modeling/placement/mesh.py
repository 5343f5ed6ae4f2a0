"""A world of ranks and the named axes that split it.

Axes belong to three views of one world, each with its last axis fastest (stride 1):

    attention   attn_dp x attn_tp        = world
    dense       (rest)  x dense_tp       dense_tp divides world
    experts     (rest)  x moe_ep x moe_tp    their product divides world

The views may differ (attention over 2x2 ranks, experts over 4). Where two views cut the world at different strides, the
mesh keeps the common refinement, its *atoms*: every axis is then a run of whole atoms, and a layout is one placement an
atom, so converting between views is the same as converting within one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Final

from ..errors import MeshError

VIEWS: Final = (("attn_dp", "attn_tp"), ("dense_tp",), ("moe_ep", "moe_tp"))
AXES: Final = tuple(axis for view in VIEWS for axis in view)
MAX_WORLD: Final = 1 << 16


@dataclass(frozen=True)
class Mesh:
    """``world`` ranks seen through named ``axes`` (sizes; an axis left out is 1, ``dense_tp`` follows ``attn_tp``).

    ``rank`` is this process's place. Raises ``MeshError`` naming the axes that do not divide.
    """

    world: int
    axes: Mapping[str, int] = field(default_factory=dict, hash=False)
    rank: int = 0
    atom_sizes: tuple[int, ...] = field(init=False, repr=False)
    """Sizes of the atoms, slowest first; their product is the world."""
    _axis_atoms: Mapping[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        axes = _complete(self.axes)
        _check(self.world, self.rank, axes)
        strides = _strides(axes)
        cuts = _cuts(self.world, axes, strides)
        bounds = list(pairwise(cuts))[::-1]
        members = {
            axis: tuple(i for i, (low, high) in enumerate(bounds) if low >= s and high <= s * axes[axis])
            for axis, s in strides.items()
        }
        object.__setattr__(self, "axes", MappingProxyType(axes))
        object.__setattr__(self, "atom_sizes", tuple(high // low for low, high in bounds))
        object.__setattr__(self, "_axis_atoms", members)

    def __reduce__(self) -> tuple[type["Mesh"], tuple[int, dict[str, int], int]]:
        return Mesh, (self.world, dict(self.axes), self.rank)

    @classmethod
    def single(cls) -> "Mesh":
        """One rank: every axis has size 1."""
        return cls(1)

    @classmethod
    def parse(cls, text: str, *, rank: int = 0) -> "Mesh":
        """Read ``attn_tp=4,moe_tp=4``; the world is the largest view. Raises ``MeshError`` naming the bad part."""
        axes: dict[str, int] = {}
        for part in filter(None, text.replace(" ", "").split(",")):
            name, equals, size = part.partition("=")
            if not equals or not size.isascii() or not size.isdigit():
                raise MeshError(f"mesh: {part!r} is not AXIS=SIZE, for example attn_tp=4; axes are {', '.join(AXES)}")
            if name in axes:
                raise MeshError(f"mesh: axis {name} is given twice; keep one of them")
            axes[name] = int(size)
        full = _complete(axes)
        return cls(max(prod(full[axis] for axis in view) for view in VIEWS), axes, rank)

    def size(self, axis: str) -> int:
        """Number of ranks along ``axis``."""
        return self.axes[axis]

    def atoms(self, axis: str) -> tuple[int, ...]:
        """Indices of the atoms that make up ``axis``, slowest first; empty where the axis has size 1."""
        return self._axis_atoms[axis]

    def group_size(self, atoms: tuple[int, ...]) -> int:
        """Number of ranks that differ only in ``atoms``."""
        return prod(self.atom_sizes[a] for a in atoms)

    def coordinates(self, rank: int) -> tuple[int, ...]:
        """Place of ``rank`` along each atom, slowest first."""
        out: list[int] = []
        for size in reversed(self.atom_sizes):
            rank, index = divmod(rank, size)
            out.append(index)
        return tuple(reversed(out))

    def index(self, atoms: tuple[int, ...], rank: int | None = None) -> int:
        """Place of ``rank`` (this one unless given) within its group along ``atoms``."""
        here = self.coordinates(self.rank if rank is None else rank)
        out = 0
        for a in atoms:
            out = out * self.atom_sizes[a] + here[a]
        return out

    def group(self, atoms: tuple[int, ...], rank: int | None = None) -> tuple[int, ...]:
        """Ranks that differ from ``rank`` only in ``atoms``, in group order."""
        here = self.coordinates(self.rank if rank is None else rank)
        rest = [i for i in range(len(here)) if i not in atoms]
        places = ((r, self.coordinates(r)) for r in range(self.world))
        return tuple(r for r, there in places if all(there[i] == here[i] for i in rest))

    def axis_of(self, atoms: tuple[int, ...]) -> str:
        """Name for a set of atoms: the axes that are exactly it, or the atoms themselves."""
        names = [axis for axis in AXES if atoms and self._axis_atoms[axis] == atoms]
        return "|".join(names) if names else "+".join(f"atom{a}" for a in atoms)


def _complete(axes: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(axes, Mapping):
        raise MeshError(f"mesh: axes = {axes!r}; give sizes by name, as {{'attn_tp': 2}}, or use Mesh.parse")
    for name in axes:
        if name not in AXES:
            raise MeshError(f"mesh: unknown axis {name!r}; axes are {', '.join(AXES)}")
    return {axis: axes.get(axis, axes.get("attn_tp", 1) if axis == "dense_tp" else 1) for axis in AXES}


def _check(world: int, rank: int, axes: Mapping[str, int]) -> None:
    for name, number in (("world", world), ("rank", rank), *axes.items()):
        if type(number) is not int:
            raise MeshError(f"mesh: {name} = {number!r}; give a whole number")
    if not 1 <= world <= MAX_WORLD:
        raise MeshError(f"mesh: a world of {world} ranks; give 1 to {MAX_WORLD}")
    if not 0 <= rank < world:
        raise MeshError(f"mesh: rank {rank} is outside the world of {world} ranks")
    for axis, size in axes.items():
        if size < 1:
            raise MeshError(f"mesh: {axis}={size}; a size is at least 1")
    for view in VIEWS:
        total = prod(axes[axis] for axis in view)
        label = " x ".join(f"{axis}={axes[axis]}" for axis in view)
        if world % total:
            raise MeshError(f"mesh: {label} makes {total}, which does not divide the world of {world} ranks")
        if view[0] == "attn_dp" and total != world:
            fix = f"attn_dp={world // axes['attn_tp']}"
            raise MeshError(f"mesh: {label} covers {total} of the {world} ranks; set {fix} or raise attn_tp")


def _strides(axes: Mapping[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for view in VIEWS:
        stride = 1
        for axis in reversed(view):
            out[axis] = stride
            stride *= axes[axis]
    return out


def _cuts(world: int, axes: Mapping[str, int], strides: Mapping[str, int]) -> list[int]:
    """Strides at which any axis begins or ends, which must divide one another in turn."""
    owner = {1: "the world", world: "the world"}
    for axis, stride in strides.items():
        if axes[axis] > 1:
            owner.setdefault(stride, axis)
            owner.setdefault(stride * axes[axis], axis)
    cuts = sorted(owner)
    for low, high in pairwise(cuts):
        if high % low:
            raise MeshError(
                f"mesh: {owner[low]} cuts the world at {low} ranks and {owner[high]} at {high}; {low} does not divide "
                f"{high}, so the axes have no common refinement: change one of their sizes"
            )
    return cuts
