"""A plan in figures: what its collectives are, what each rank sends, and what each rank holds."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from ..kv import KvSpec
from ..layers.leaf import Leaf
from .cost import wire_bytes
from .program import Combine, Communication, Program, Start, call_of, collective_of

ROWS: Final = ("token", "sample")


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one plan. Bytes sent are those of one rank for each token (or sample) of the whole batch."""

    mesh: str
    world: int
    policy: str
    collectives: dict[str, int]
    """How many of each kind, for one pass through the model; slices are local and not among them."""
    fused: int
    """Those of them that are one step with a residual norm."""
    overlapped: int
    """Those that run beside a module."""
    bytes_per_token: float
    bytes_per_sample: float
    weight_bytes: int
    kv_bytes_per_token: int | None
    """Of one rank, for each token of its own ``attn_dp`` group; None where it was not asked for."""
    state_bytes_per_request: int | None
    """Running states on one rank, for each request of its group."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, with ``collective_count`` added."""
        return {**asdict(self), "collective_count": sum(self.collectives.values())}


def summarize(program: Program, *, itemsize: int, kv: KvSpec | None = None) -> Summary:
    """Figures of ``program`` with activations of ``itemsize`` bytes an element."""
    ops = [c for c in map(collective_of, program.operations) if c and c.kind != "slice"]
    sums = {row: sum(wire_bytes(c, program, itemsize) for c in ops if row_of(c) == row) for row in ROWS}
    return Summary(
        mesh=", ".join(f"{axis}={size}" for axis, size in program.mesh.axes.items() if size > 1) or "one rank",
        world=program.mesh.world,
        policy=program.choices,
        collectives=dict(Counter(c.kind for c in ops)),
        fused=sum(call_of(op) is not None and collective_of(op) is not None for op in program.operations),
        overlapped=sum(isinstance(op, Start) for op in program.operations),
        bytes_per_token=sums["token"],
        bytes_per_sample=sums["sample"],
        weight_bytes=weight_bytes(program),
        kv_bytes_per_token=kv.bytes_per_token if kv else None,
        state_bytes_per_request=kv.bytes_per_state if kv else None,
    )


def row_of(op: Communication) -> str:
    """What the bytes of ``op`` are counted for."""
    rows = op.out if isinstance(op, Combine) else op.first
    return ROWS[rows.dims[0].name == "samples"]


def weight_bytes(program: Program) -> int:
    """Bytes of all weights on this rank, a leaf that is called twice counted once."""
    leaves = {call.leaf for call in map(call_of, program.operations) if call}
    return sum(_leaf_bytes(leaf) for leaf in leaves)


def _leaf_bytes(leaf: Leaf) -> int:
    return sum(buffer.nbytes for buffer in leaf.buffers_wanted().values())
