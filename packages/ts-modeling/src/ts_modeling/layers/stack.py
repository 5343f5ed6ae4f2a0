"""Checkpoint matrices of one format stacked along N into one weight of this rank, perhaps for several experts.

Legend: E experts, N outputs, K inputs.
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from ts_kernels import gemm

from ..errors import ConfigError
from ..placement import Mesh, part_of
from ..quantization import BIAS, Field, Scheme, dequantized
from ..quantization.scheme import Source
from .cuts import check_cut
from .leaf import Buffer, Init, Piece, Region, Slot, cut

WIDTH: Final = 16
"""Columns that kernels read together: panels of the CPU's have 16, tiles of a GPU's no fewer."""
PIECE: Final = 2 << 20
"""Bytes of a run of rows, about: what is read and packed at a time, and mapped meanwhile."""


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` of ``size`` (rows, columns or experts of the checkpoint) from ``start``: what this rank holds.

    ``what`` is its name in ``config.json``, for errors.
    """

    size: int
    start: int
    length: int
    what: str = "inputs"

    @classmethod
    def whole(cls, size: int, what: str = "inputs") -> "Span":
        """All of it."""
        return cls(size, 0, size, what)


def local_size(what: str, size: int, mesh: Mesh, axis: str | None, unit: int = 1, head: int = 0) -> int:
    """``size`` cut over ``axis`` at multiples of ``unit``; heads of ``head``, where they are fewer than ranks, are held
    by several each. Raises ``MeshError`` naming what does not divide."""
    if axis is None:
        return size
    ranks, heads = mesh.size(axis), size // head if head else 0

    def shares(n: int) -> bool:
        return heads > 0 and n % heads == 0

    def divides(n: int) -> bool:
        return shares(n) or size % n == 0

    def part(n: int) -> int:
        return head if shares(n) else size // n

    problem = f"{what} = {size} does not divide over {axis}={ranks}"
    if divides(ranks):
        problem = (
            f"{what} = {size} over {axis}={ranks} leaves {part(ranks)} a rank, which cuts groups of {unit} that share "
            "a scale"
        )
    check_cut(mesh, axis, lambda n: divides(n) and (n == 1 or part(n) % unit == 0), problem)
    return part(ranks)


def span(what: str, size: int, mesh: Mesh, axis: str | None, unit: int = 1, head: int = 0) -> Span:
    """This rank's part of ``size`` cut over ``axis``; ``head`` as for ``local_size``.

    Raises ``MeshError`` naming what does not divide.
    """
    local = local_size(what, size, mesh, axis, unit, head)
    index, ranks = (mesh.index(mesh.atoms(axis)), mesh.size(axis)) if axis else (0, 1)
    return Span(size, index // (local * ranks // size) * local, local, what)


def uneven_span(what: str, size: int, mesh: Mesh, axis: str) -> Span:
    """This rank's part of a dimension that is ``uneven``. Raises ``MeshError`` where there is less of it than ranks."""
    ranks = mesh.size(axis)
    check_cut(mesh, axis, lambda n: size >= n, f"{what} = {size} is less than {axis}={ranks}")
    return Span(size, *part_of(mesh, mesh.atoms(axis), size), what)


def inner_span(what: str, size: int, mesh: Mesh, axis: str, unit: int = 1) -> Span:
    """This rank's part of an intermediate size, which no other module sees, so that parts need not be equal.

    It is cut in whole groups of ``unit``: equal parts where they are, else the first ranks have one group more, of
    ``WIDTH`` too if there are enough. Raises ``MeshError`` where there are fewer groups than ranks.
    """
    ranks, index = mesh.size(axis), mesh.index(mesh.atoms(axis))
    groups = -(-size // unit)
    problem = f"{what} = {size} is less than {axis}={ranks}"
    if unit > 1:
        problem = f"{what} = {size} has {groups} groups of {unit} that share a scale, fewer than {axis}={ranks}"
    check_cut(mesh, axis, lambda n: groups >= n, problem)
    if size % (ranks * unit) == 0:
        return Span(size, index * size // ranks, size // ranks, what)
    wide = math.lcm(unit, WIDTH)
    step = wide if -(-size // wide) >= ranks else unit
    each, more = divmod(-(-size // step), ranks)
    start = (index * each + min(index, more)) * step
    end = start + (each + (index < more)) * step
    return Span(size, start, min(end, size) - start, what)


class Stack:
    """Buffers ``name`` + key [(E,) N, K]-like of ``parts`` (name -> rows), all cut to the columns ``k``.

    Checkpoint tensors are called ``PART.KEY``: the key of a scheme's field, ``shape``, or ``bias``. One that holds
    several parts is called ``PART+PART.KEY``; one of expert E ``E.PART.KEY``, while one of all experts has no number.
    Where ``k`` is cut, one rank's addend of the sum carries the bias. Raises ``ConfigError`` where the format cannot
    hold ``k`` columns.
    """

    def __init__(
        self,
        name: str,
        scheme: Scheme,
        parts: Mapping[str, Span],
        k: Span,
        *,
        experts: Span | None = None,
        bias: bool = False,
    ) -> None:
        self.name, self.scheme, self.parts, self.k, self.experts = name, scheme, dict(parts), k, experts
        self.has_bias, self.adds_bias = bias, bias and k.start == 0
        if k.size % scheme.column_unit and not scheme.ragged:
            raise ConfigError(
                f"config.json: {k.what} = {k.size} is no multiple of {scheme.column_unit}, as {scheme} needs for "
                f"{' and '.join(parts)}: add them to `ignore`"
            )
        self.rows = sum(part.length for part in parts.values())
        *first, _ = parts.values()
        self.joined = all(part.length % scheme.row_unit == 0 for part in first)
        """Whether blocks of the stack are blocks of its parts."""

    def buffers(self) -> dict[str, Buffer]:
        """Tensors to fill."""
        fields = (*self.scheme.fields, BIAS) if self.adds_bias else self.scheme.fields
        return {self.name + field.key: self._buffer(field) for field in fields}

    def slot(self, part: str) -> Slot:
        """Where the checkpoint tensor of that name goes."""
        *number, joined, key = part.split(".")
        expert, names = int(number[0]) if number else None, joined.split("+")
        n = sum(self.parts[name].size for name in names)
        if key == "shape":
            return Slot("", (2,), None, says=(n, self.k.size))
        field = next(f for f in (*self.scheme.fields, BIAS) if f.key == key)
        assert key != "bias" or self.has_bias, f"{part}: there is no bias"
        shape = field.shape(n, self.k.size)
        if key == "bias" and not self.adds_bias:
            every = (self.experts.size,) if self.experts and expert is None else ()
            return Slot("", (*every, *shape), None)
        lead: tuple[slice, ...] = ()
        put: tuple[int | slice, ...] = ()
        if self.experts and expert is None:
            shape, lead, put = (self.experts.size, *shape), (cut(self.experts.start, self.experts.length),), (_ALL,)
        elif self.experts and expert is not None:
            here = expert - self.experts.start
            if not 0 <= here < self.experts.length:
                return Slot(self.name + key, shape, None)
            put = (here,)
        first, *more = self._moves(field, names)
        moves = [((*lead, *take), (*put, rows)) for take, rows in (first, *more)]
        return Slot(self.name + key, shape, *moves[0], more=tuple(moves[1:]))

    def bias(self, tensors: dict[str, Tensor]) -> Tensor | None:
        """The bias [(E,) N], which leaves ``tensors``; None where there is none or another rank adds it."""
        return tensors.pop(self.name + BIAS.key).squeeze(-1) if self.adds_bias else None

    def source(self, tensors: dict[str, Tensor]) -> Source:
        """The kernels' weight of the filled buffers, which leave ``tensors``; or of regions of them, as pieces have.

        Parts that do not end at a block's bound cannot share blocks, and are dequantized to bf16.
        """
        mine = {field.key: tensors.pop(self.name + field.key) for field in self.scheme.fields}
        if self.joined:
            return self.scheme.source(mine, self.k.length)
        pieces = []
        for name in self.parts:
            piece = {f.key: mine[f.key][..., self._held(f, name), :] for f in self.scheme.fields}
            pieces.append(dequantized(self.scheme.source(piece, self.k.length)))
        return torch.cat(pieces, dim=-2)

    def layout(self) -> Hashable:
        """What decides slots, buffers and pieces."""
        return self.name, self.scheme, tuple(self.parts.items()), self.k, self.experts, self.has_bias

    def pieces(self, *, whole: bool = False, rows: int = gemm.RUN) -> Iterator[Piece]:
        """Runs of rows, multiples of ``rows``, that make a source of their own; ``whole``: all rows of a matrix at
        once, as where parts do not begin where a run may."""
        unit = math.lcm(gemm.RUN, self.scheme.row_unit, rows)
        *first, _ = self.parts.values()
        whole = whole or not self.joined or any(part.length % unit for part in first)
        lengths = {"": self.rows} if whole else {name: part.length for name, part in self.parts.items()}
        bytes_ = sum(buffer.nbytes for buffer in self.buffers().values()) // (
            self.experts.length if self.experts else 1
        )
        step = self.rows if whole else max(1, PIECE * self.rows // bytes_ // unit) * unit
        for expert in range(self.experts.length) if self.experts else (None,):
            at = 0
            for length in lengths.values():
                for row in range(0, length, step):
                    yield self._piece(expert, at + row, min(step, length - row))
                at += length

    def bias_piece(self) -> Iterator[Piece]:
        """The bias, where this rank adds it."""
        if self.adds_bias:
            yield Piece({self.name + BIAS.key: ()}, BIAS.key)

    def _piece(self, expert: int | None, first: int, rows: int) -> Piece:
        lead = () if expert is None else (expert,)
        regions: dict[str, Region] = {}
        for field in self.scheme.fields:
            stored = _units(first, rows, field.rows) if field.rows else cut(first, rows)
            regions[self.name + field.key] = (*lead, stored if self.joined else _ALL)
        return Piece(regions, self.name, expert or 0, first)

    def _buffer(self, field: Field) -> Buffer:
        shape = (self._offset(field, None), *field.shape(0, self.k.length)[1:])
        lead = (self.experts.length,) if self.experts else ()
        init: Init = "normal" if field.dummy == "normal" else "codes" if field.dummy == "codes" else "fill"
        value = field.value(self.k.size)
        return Buffer((*lead, *shape), field.dtypes, init, value, scale=field.scale, half=field.scale)

    def _moves(self, field: Field, names: list[str]) -> list[tuple[tuple[slice, ...], slice]]:
        """Rows and columns of a stored tensor of ``names``, and the rows of the buffer that they go to."""
        columns = _units(self.k.start, self.k.length, field.columns) if field.columns else _ALL
        out: list[tuple[tuple[slice, ...], slice]] = []
        before = 0
        for name in names:
            part = self.parts[name]
            assert not (field.rows and before % field.rows), f"{names}: {name} begins within a block"
            rows = _units(before + part.start, part.length, field.rows) if field.rows else _ALL
            out.append(((rows, columns), self._held(field, name)))
            before += part.size
        return out

    def _held(self, field: Field, name: str) -> slice:
        """Rows of the buffer that belong to a part."""
        start = self._offset(field, name)
        return cut(start, _stored(self.parts[name].length, field))

    def _offset(self, field: Field, name: str | None) -> int:
        """Stored rows before a part, or of all parts."""
        names = list(self.parts)
        before = names if name is None else names[: names.index(name)]
        return sum(_stored(self.parts[other].length, field) for other in before)


def alike(first: Stack, second: Stack, types: Mapping[str, torch.dtype]) -> bool:
    """Whether both become one format without a look at the other, for buffers of these types."""
    if first.scheme != second.scheme or not (first.joined and second.joined):
        return False
    return all(types[first.name + field.key] == types[second.name + field.key] for field in first.scheme.fields[:1])


_ALL = slice(None)


def _stored(rows: int, field: Field) -> int:
    return -(-rows // field.rows) if field.rows else rows


def _units(start: int, length: int, unit: int) -> slice:
    return slice(start // unit, -(-(start + length) // unit))
