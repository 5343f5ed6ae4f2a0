"""Running states of linear attention: a slot works on one page of theirs, and checkpoints of it lie on others.

A plan may want a checkpoint from the middle of a row. No kernel gives the states between, so the row is cut there: its
pieces run one after another, each as a forward pass beside the same pieces of other rows. Rows are aligned at their
ends, so that all but the pieces of cut rows run in the last pass, as they would without.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from ts_kernels import linear_attention
from ts_modeling import KvSpec, LayerCache
from ts_protocol.wire import IntArray

from ts_runtime.devices import Device
from ts_runtime.errors import PlanError
from ts_runtime.rows import Bools, Ints, Rows
from ts_runtime.slots import Slots

GROUP = 1
"""All layers with a running state are one group of the scheduler's, however many kinds of them a model has."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Pages of states to copy, int64 [n] each; none is written twice, nor read and written."""

    sources: Ints
    targets: Ints

    def where(self, chosen: Bools) -> "Copies":
        """Some of them."""
        return Copies(self.sources[chosen], self.targets[chosen])


NO_COPIES = Copies(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one pass, the host's tokens of them, and the checkpoints to take behind it."""

    rows: Rows
    tokens: IntArray
    saves: Copies


class StateCopier:
    """Copies pages of a cache's states, on its device."""

    def __init__(self, spec: KvSpec, cache: list[LayerCache], device: Device) -> None:
        layers = sorted(layer for group in spec.groups for layer in group.layers)
        with_state = {layer for group in spec.groups if group.kind == "state" for layer in group.layers}
        kept = [part for layer, part in zip(layers, cache, strict=True) if layer in with_state]
        self._pools = [pool for part in kept for pool in ((part,) if isinstance(part, Tensor) else part)]
        self._device = device

    def copy(self, copies: Copies) -> None:
        """Copy them in all layers, in stream order."""
        if len(copies.sources):
            sources, targets = self._device.mirror(copies.sources), self._device.mirror(copies.targets)
            for pool in self._pools:
                linear_attention.copy_states(pool, pool, sources, targets)


def cut_rows(frame: IntArray, r: Rows, tokens: IntArray, slots: Slots) -> tuple[Copies, list[Piece]]:
    """What ``states`` [n, 5] of a plan asks: the copies before the step, and its rows as pieces; the last one samples.

    ``tokens`` are the host's, of all rows.

    Raises:
        PlanError: the frame contradicts the rows, the slots or the pages there are, or a row has no state.
    """
    index, group, pages, positions, save = frame.T.astype(np.int64)
    row_of = np.full(slots.count + 1, -1, np.int64)  # the spare entry stands for slots out of range
    row_of[r.slots] = np.arange(len(r.slots))
    at = row_of[np.where((index >= 0) & (index < slots.count), index, slots.count)]
    if (at < 0).any() or (group != GROUP).any():
        raise PlanError(f"the plan copies states of slots {index[:8]}, groups {group[:8]}; each has a row, and group 1")
    own = slots.states[r.slots]
    if own.min() < 0:
        raise PlanError(f"slot {r.slots[own.argmin()]} has a row and no page for its state")
    if len(pages) and (pages.min() < 0 or pages.max() >= slots.num_states or np.isin(pages, own).any()):
        raise PlanError(f"the plan copies states to or from pages {pages[:8]}; there are {slots.num_states}")
    saved = save != 0
    _check_loads(r, at[~saved], positions[~saved], slots)
    loads = Copies(pages[~saved], own[at[~saved]])
    return loads, _pieces(r, tokens, at[saved], positions[saved], Copies(own[at[saved]], pages[saved]))


def _check_loads(r: Rows, at: Ints, positions: Ints, slots: Slots) -> None:
    """A row goes on where its slot is, or from the one state that it loads; only the empty one needs no load."""
    loaded = np.zeros(len(r.slots), np.bool_)
    loaded[at] = True
    if (positions != r.starts[at]).any() or np.count_nonzero(loaded) != len(at):
        raise PlanError(f"the plan loads states of {positions[:8]} tokens for rows that start at {r.starts[at][:8]}")
    first = (slots.length[r.slots] < 0) & (r.starts > 0)
    if (loaded != first).any():
        raise PlanError(
            f"slot {r.slots[(loaded != first).argmax()]} starts in a prefix without its state, or loads one"
        )


def _pieces(r: Rows, tokens: IntArray, at: Ints, positions: Ints, saves: Copies) -> list[Piece]:
    """``r`` cut at the ``positions`` [n] of rows ``at`` [n], where ``saves`` [n] are taken."""
    if ((positions <= r.starts[at]) | (positions > r.ends[at])).any():
        raise PlanError(f"the plan saves states of {positions[:8]} tokens, beyond its rows")
    inside = positions < r.ends[at]
    if not inside.any():
        return [Piece(r, tokens, saves)]
    cuts = [np.unique(positions[inside & (at == row)]) for row in range(len(r.slots))]
    passes = max(map(len, cuts))
    turns = [passes - len(cuts[row]) + np.searchsorted(cuts[row], end) for row, end in zip(at, positions, strict=True)]
    begins, pieces = r.starts.copy(), []
    for turn in range(passes):
        here = np.array(turns) == turn
        rows, first = np.unique(at[here], return_index=True)
        ends = positions[here][first]
        pieces.append(_piece(r, tokens, rows, begins[rows], ends, saves.where(here)))
        begins[rows] = ends
    last = _piece(r, tokens, np.arange(len(r.slots)), begins, r.ends, saves.where(np.array(turns) == passes))
    return [*pieces, replace(last, rows=replace(last.rows, sampled=r.sampled, n_decode=r.n_decode))]


def _piece(r: Rows, tokens: IntArray, rows: Ints, starts: Ints, ends: Ints, saves: Copies) -> Piece:
    """The tokens from ``starts`` to ``ends`` of some rows."""
    zero = np.cumsum(r.counts) - r.counts - r.n_decode - r.starts  # the place of position 0 in the host's tokens
    spans = zip(zero[rows] + starts, zero[rows] + ends, rows >= r.n_decode, strict=True)
    parts = [tokens[start:end] for start, end, from_host in spans if from_host]
    counts, unsampled = ends - starts, np.zeros(len(rows), np.bool_)
    return Piece(
        Rows(r.slots[rows], starts, ends, counts, unsampled, 0, int(counts.sum())), np.concatenate(parts), saves
    )
