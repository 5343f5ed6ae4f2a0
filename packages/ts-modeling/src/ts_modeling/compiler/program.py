"""The compiled plan: straight-line steps over values that are assigned once."""

from dataclasses import dataclass, field
from typing import Final

from ..layers.leaf import Leaf
from ..placement import BATCH_DIMS, Dim, Layout, Mesh, Routed, Shard, Step
from .policy import Policy


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the plan: its dimensions, its layout, and what it is called.

    ``producer`` is the module that gives it, for people; ``hint`` its name in code. ``expr`` is set for inputs, which
    are read in place; other values are assigned by a step. ``itemsize``: bytes of an element; None where it is an
    activation's.
    """

    id: int
    dims: tuple[Dim, ...]
    layout: Layout
    producer: str
    hint: str
    expr: str | None = None
    itemsize: int | None = None

    def row_bytes(self, mesh: Mesh, itemsize: int) -> float:
        """Bytes on one rank for each row of the batch (one token or one sample); an activation has ``itemsize``."""
        count = float(self.itemsize or itemsize)
        for dim in self.dims:
            if dim.name not in BATCH_DIMS:
                assert dim.size is not None
                count *= dim.size
        for atom, placement in enumerate(self.layout):
            if isinstance(placement, Shard):
                count /= mesh.atom_sizes[atom]
        return count


ITS_ROWS: Final = "its rows"
"""Where what is combined goes to, for people."""
Arg = Value | str
"""A value, or the source text of an input that the plan only passes on."""


@dataclass(frozen=True, slots=True)
class Call:
    """Call of an annotated module."""

    path: str
    leaf: Leaf
    args: tuple[Arg, ...]
    outs: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two values of one layout."""

    left: Value
    right: Value
    out: Value

    @property
    def outs(self) -> tuple[Value, ...]:
        """The sum, alone."""
        return (self.out,)


@dataclass(frozen=True, slots=True)
class Collect:
    """One collective that brings ``source`` to the layout of ``out``, for the module ``consumer``."""

    step: Step
    source: Value
    out: Value
    consumer: str

    @property
    def kind(self) -> str:
        """Name of the collective."""
        return self.step.kind

    @property
    def first(self) -> Value:
        """What is sent."""
        return self.source

    @property
    def outs(self) -> tuple[Value, ...]:
        """The converted value, alone."""
        return (self.out,)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Sends the rows of ``sources`` to the ranks that have one of their ids, for the module ``consumer``; ``outs`` are
    the rows that came, and the way back."""

    routed: Routed
    atoms: tuple[int, ...]
    sources: tuple[Value, ...]
    outs: tuple[Value, ...]
    consumer: str
    kind: str = "dispatch"

    @property
    def first(self) -> Value:
        """The rows that the others belong to."""
        return self.sources[0]

    @property
    def route(self) -> Value:
        """Which rows went where."""
        return self.outs[-1]


@dataclass(frozen=True, slots=True)
class Combine:
    """Brings the rows of ``source`` back the way they came and sums those of one row."""

    dispatch: Dispatch
    source: Value
    out: Value
    kind: str = "combine"
    consumer: str = ITS_ROWS

    @property
    def first(self) -> Value:
        """What is sent."""
        return self.source

    @property
    def outs(self) -> tuple[Value, ...]:
        """The sum, alone."""
        return (self.out,)


Communication = Collect | Dispatch | Combine


def edge_of(op: Communication) -> str:
    """Between which modules ``op`` stands."""
    return f"{op.first.producer} -> {op.consumer}"


@dataclass(frozen=True, slots=True)
class FusedNorm:
    """All-reduce or reduce-scatter, residual sum and RMSNorm as one step."""

    collect: Collect
    call: Call

    @property
    def outs(self) -> tuple[Value, ...]:
        """The normed value and the new residual."""
        return self.call.outs


@dataclass(frozen=True, slots=True)
class Start:
    """Begins ``op``; ``pending`` gives its results when waited for."""

    op: Communication
    pending: Value

    @property
    def outs(self) -> tuple[Value, ...]:
        """What to wait for."""
        return (self.pending,)


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits for what ``start`` began."""

    start: Start

    @property
    def outs(self) -> tuple[Value, ...]:
        """The results."""
        return self.start.op.outs


Operation = Call | Add | Collect | Dispatch | Combine | FusedNorm | Start | Wait


def collective_of(op: Operation) -> Communication | None:
    """What ``op`` sends, or begins to send."""
    if isinstance(op, FusedNorm):
        return op.collect
    if isinstance(op, Start):
        return op.op
    return op if isinstance(op, Collect | Dispatch | Combine) else None


def call_of(op: Operation) -> Call | None:
    """The module call that ``op`` is or contains."""
    return op.call if isinstance(op, FusedNorm) else op if isinstance(op, Call) else None


def reads(op: Operation) -> tuple[Value, ...]:
    """The values that ``op`` consumes, in argument order."""
    match op:
        case Call():
            args: tuple[Arg, ...] = op.args
        case Add():
            args = (op.left, op.right)
        case Collect():
            args = (op.source,)
        case Dispatch():
            args = op.sources
        case Combine():
            args = (op.source, op.dispatch.route)
        case FusedNorm():
            args = (op.collect.source, *(v for v in op.call.args if v is not op.collect.out))
        case Start():
            args = reads(op.op)
        case Wait():
            args = (op.start.pending,)
    return tuple(a for a in args if isinstance(a, Value))


@dataclass(slots=True)
class Program:
    """A compiled model: ``parameters`` are the names of the function's arguments."""

    mesh: Mesh
    parameters: tuple[str, ...]
    operations: list[Operation] = field(default_factory=list)
    result: Value | None = None
    policy: Policy = field(default_factory=Policy)
    extras: tuple[Value, ...] = ()
    """What is returned after the result, where the model gives more."""

    @property
    def choices(self) -> str:
        """The policy in words; what becomes of experts' rows only where there are experts."""
        return self.policy.told(experts=any(c.leaf.boundary.routed for c in map(call_of, self.operations) if c))

    def gives(self, value: Value) -> bool:
        """Whether the plan returns ``value``."""
        return any(value is given for given in (self.result, *self.extras))

    def readers(self) -> dict[int, list[Operation]]:
        """Operations that read each value, by its id."""
        out: dict[int, list[Operation]] = {}
        for op in self.operations:
            for value in reads(op):
                out.setdefault(value.id, []).append(op)
        return out

    def new_id(self) -> int:
        """An id that no value has."""
        return 1 + max((v.id for op in self.operations for v in (*op.outs, *reads(op))), default=-1)
