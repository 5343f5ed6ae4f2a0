"""How a leaf is read: which bytes of its tensors become which pieces. Made once for leaves that are alike."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import torch

from ..layers.leaf import Leaf, Piece, Region, Slot
from ..layers.stack import PIECE
from .checks import problem_of, types_of
from .regions import Take, bytes_of, overlap, size
from .safetensors import TensorInfo, Window

WHOLE: Final = "whole"
"""The piece that is all of a leaf, for ``Leaf.prepare``."""


@dataclass(frozen=True, slots=True)
class Move:
    """``take`` of one of the leaf's tensors, by its number; ``put``: where in a region it goes.

    ``window``: where that lies in the file.
    """

    number: int
    take: Take
    put: Region
    window: Window


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a region of a buffer, of ``shape`` and ``dtype``, is made of.

    ``lent``: of one part of a file as it is.
    """

    buffer: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    moves: tuple[Move, ...]
    lent: bool
    scale: bool


Run = tuple[tuple[Piece, tuple[Fetch, ...]], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces that one thread reads and packs, and the bytes of the leaf's tensors that they take (number, from, to).

    ``says``: tensors that must hold these numbers. ``nbytes`` are read.
    """

    run: Run
    spans: tuple[tuple[int, int, int], ...]
    says: tuple[tuple[int, tuple[int, ...]], ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """Where a leaf's tensors go, and the batches that bring them; ``whole``: one, for ``Leaf.prepare``."""

    slots: tuple[Slot, ...]
    batches: tuple[Batch, ...]
    whole: bool


class Planner:
    """Plans of leaves; fp16 weights become ``dtype``. ``problems`` are those of tensors that do not fit."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.problems = dtype, list[str]()
        self._known: dict[Hashable, LeafPlan] = {}

    def plan(
        self, leaf: Leaf, names: Sequence[str], parts: Sequence[str], infos: Sequence[TensorInfo]
    ) -> LeafPlan | None:
        """How ``leaf`` is filled by its tensors: names, parts of the leaf, and what files say of them.

        None where one has a wrong shape or type.
        """
        layout = leaf.layout()
        key = (layout, *parts, *((info.dtype, info.shape) for info in infos))
        if layout is not None and key in self._known:
            return self._known[key]
        wanted, slots = leaf.buffers_wanted(), tuple(map(leaf.slot, parts))
        found = [(n, problem_of(s, wanted.get(s.buffer), i)) for n, s, i in zip(names, slots, infos, strict=True)]
        problems = [f"{name} {problem}" for name, problem in found if problem]
        if problems:
            self.problems += problems
            return None
        types = types_of(wanted, names, slots, infos, self.dtype)
        assert types.keys() == wanted.keys(), f"the table fills {sorted(types)} of {leaf}"
        plan = self._known[key] = _plan(leaf, slots, infos, types)
        return plan


def _plan(
    leaf: Leaf, slots: tuple[Slot, ...], infos: Sequence[TensorInfo], types: Mapping[str, torch.dtype]
) -> LeafPlan:
    wanted = leaf.buffers_wanted()
    pieces = leaf.pieces(types)
    whole = not pieces
    moves: dict[tuple[str, int | None], list[tuple[int, Take, Region]]] = defaultdict(list)
    for number, slot in enumerate(slots):
        for take, put in slot.moves:
            moves[slot.buffer, _expert(put)].append((number, take, put))

    def fetch(name: str, region: Region) -> Fetch:
        shape = size(region, wanted[name].shape)
        experts = {_expert(region), None} if region else {expert for at, expert in moves if at == name}
        found: list[Move] = []
        for number, from_, to in (m for expert in experts for m in moves.get((name, expert), ())):
            meets = overlap(from_, to, region, slots[number].shape, wanted[name].shape)
            if meets:
                take, put = meets
                found.append(Move(number, take, put, _window(take, slots[number], size(put, shape))))
        alone = len(found) == 1 and size(found[0].put, shape) == shape
        lent = alone and infos[found[0].number].dtype == types[name] and not whole
        return Fetch(name, shape, types[name], tuple(found), lent, wanted[name].scale)

    wanting = pieces or (Piece(dict.fromkeys(wanted, ()), WHOLE),)
    fetched = [(piece, tuple(fetch(*named) for named in piece.regions.items())) for piece in wanting]
    return LeafPlan(slots, _batches(fetched, slots, infos), whole)


def _window(take: Take, slot: Slot, shape: tuple[int, ...]) -> Window:
    """Where ``take`` of a slot's tensor lies in the file, as often as ``shape`` has room for."""
    tensor = torch.empty(slot.stored, device="meta")
    part = (tensor.transpose(-1, -2) if slot.transposed else tensor)[take].expand(shape)
    return Window(shape, part.stride(), int(part.storage_offset()))


def _expert(region: Region) -> int | None:
    """Which of several experts a place in a buffer is of: there may be thousands of places."""
    return region[0] if region and isinstance(region[0], int) else None


def _batches(
    fetched: Sequence[tuple[Piece, tuple[Fetch, ...]]], slots: Sequence[Slot], infos: Sequence[TensorInfo]
) -> tuple[Batch, ...]:
    """Pieces in their order, about ``PIECE`` bytes together."""
    runs: list[list[tuple[Piece, tuple[Fetch, ...]]]] = []
    room = 0
    for piece, fetches in fetched:
        needed = _taken(fetches, slots, infos)
        if not runs or needed > room:
            runs.append([])
            room = PIECE
        runs[-1].append((piece, fetches))
        room -= needed
    return tuple(_batch(tuple(run), slots, infos) for run in runs)


def _batch(run: Run, slots: Sequence[Slot], infos: Sequence[TensorInfo]) -> Batch:
    fetches = [fetch for _, both in run for fetch in both]
    spans = tuple(_spans(fetches, slots, infos))
    # What a tensor says follows the tensors that it is about; of an expert's, only the rank that holds it looks.
    last = sorted({number for number, _, _ in spans})
    says = [(n + 1, slots[n + 1].says) for n in last if n + 1 < len(slots)]
    return Batch(run, spans, tuple((n, s) for n, s in says if s is not None), _taken(fetches, slots, infos))


def _taken(fetches: Sequence[Fetch], slots: Sequence[Slot], infos: Sequence[TensorInfo]) -> int:
    """Bytes that are read of files."""
    moves = [move for fetch in fetches for move in fetch.moves]
    return sum(prod(size(m.take, slots[m.number].shape)) * infos[m.number].dtype.itemsize for m in moves)


def _spans(
    fetches: Sequence[Fetch], slots: Sequence[Slot], infos: Sequence[TensorInfo]
) -> Iterator[tuple[int, int, int]]:
    for move in (m for fetch in fetches for m in fetch.moves):
        slot = slots[move.number]
        ordered = len(slot.shape) - 2 if slot.transposed else len(slot.shape)
        yield (move.number, *bytes_of(move.take, slot.shape, infos[move.number].nbytes, ordered))
