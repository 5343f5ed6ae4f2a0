"""What a plan's communication costs: bytes that each rank sends, and the time to begin, counted in bytes too.

Ring algorithms are assumed: an all-reduce is a reduce-scatter and an all-gather. Experts are assumed to be chosen
evenly, so a rank with one of P parts of E experts has work for a share ``1 - C(E - E/P, k) / C(E, k)`` of the rows.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

from ..placement import SAMPLES
from .policy import Policy
from .program import Combine, Communication, Dispatch, Program, collective_of

MESSAGES: Final = {"slice": 0, "dispatch": 2}
"""Rounds of a collective that are not one; a dispatch says first how many rows will come."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What to choose plans for: ``start`` bytes that a link could have carried in the time that a collective takes to
    begin, ``itemsize`` bytes of an activation's element. A policy that is the ``only`` one leaves nothing to choose.

    ``start`` is a property of the network: the time of a tiny all-reduce times the bandwidth of a huge one
    (``tools/bench/links.py`` measures both).
    """

    start: int = 1 << 19
    itemsize: int = 2
    only: Policy | None = None


def wire_bytes(op: Communication, program: Program, itemsize: int) -> float:
    """Bytes that one rank sends for each row of the whole batch; a slice moves nothing.

    ``itemsize`` is an activation's; values that say their own have that.
    """
    mesh = program.mesh
    if isinstance(op, Dispatch | Combine):
        return _copies_bytes(op, program, itemsize)
    ranks = mesh.group_size(op.step.atoms)
    before, after = (v.row_bytes(mesh, itemsize) for v in (op.source, op.out))
    whole = {"all_reduce": 2 * before, "all_gather": after, "slice": 0.0}.get(op.step.kind, before)
    return whole * (ranks - 1) / ranks


def messages(op: Communication) -> int:
    """Rounds that ``op`` takes."""
    return MESSAGES.get(op.kind, 1)


def token_bytes(program: Program, itemsize: int) -> float:
    """Bytes that a rank sends for each token of the whole batch; those of sampled rows are the same in every plan."""
    return sum(
        wire_bytes(c, program, itemsize) for c in map(collective_of, program.operations) if c and not _of_samples(c)
    )


def start_bytes(program: Program, costs: Costs) -> int:
    """What beginning all collectives of a step costs."""
    return costs.start * sum(messages(c) for c in map(collective_of, program.operations) if c)


def _of_samples(op: Communication) -> bool:
    return not isinstance(op, Dispatch | Combine) and op.source.dims[0] == SAMPLES


def share_asked(experts: int, parts: int, chosen: int) -> float:
    """Share of the rows that have at least one of ``chosen`` different ids in a given part of ``experts``."""
    missing = prod((experts - experts // parts - i) / (experts - i) for i in range(chosen))
    return 1.0 - max(missing, 0.0)


def _copies_bytes(op: Dispatch | Combine, program: Program, itemsize: int) -> float:
    mesh = program.mesh
    dispatch = op.dispatch if isinstance(op, Combine) else op
    chosen = dispatch.sources[dispatch.routed.ids].dims[-1].size
    assert chosen is not None
    parts = mesh.group_size(dispatch.atoms)
    copies = (parts - 1) * share_asked(dispatch.routed.count, parts, chosen)
    sent = (op.out,) if isinstance(op, Combine) else dispatch.sources
    return copies * sum(value.row_bytes(mesh, itemsize) for value in sent)
