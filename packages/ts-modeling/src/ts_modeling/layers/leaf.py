"""What the compiler and the loader know about a module that they do not look into."""

import abc
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from ts_kernels import gemm

from ..placement import Boundary, Gives, Spec
from ..quantization.scheme import FLOATS

Init = Literal["normal", "ones", "zeros", "codes", "fill"]
Memory = Literal["own", "arguments", "any"]
Region = tuple[int | slice, ...]
Moves = tuple[tuple[tuple[slice, ...], Region], ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """One tensor that a leaf wants filled before ``prepare``: this rank's shape.

    ``dtypes`` are those that the checkpoint may hold; the buffer takes the one found, but fp16 becomes the type of the
    activations unless ``half``. ``init`` is for dummy weights: random codes, or ``fill`` with ``value``. ``scale``
    tensors must be finite.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    init: Init = "normal"
    value: float = 0.0
    scale: bool = False
    half: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes in the first of the allowed types."""
        return prod(self.shape) * self.dtypes[0].itemsize


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one checkpoint tensor of (global) ``shape`` goes: ``buffer[put] = tensor[take]``, and so for ``more``.

    ``take`` None: this rank holds none of it, and only its shape is checked. ``says``: it holds no weights but these
    numbers, which are checked. ``transposed``: the file has the last two dimensions the other way round.
    """

    buffer: str
    shape: tuple[int, ...]
    take: tuple[slice, ...] | None = ()
    put: tuple[int | slice, ...] = ()
    more: Moves = ()
    says: tuple[int, ...] | None = None
    transposed: bool = False

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape in the file."""
        return (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.transposed else self.shape

    @property
    def moves(self) -> Moves:
        """All pairs of (take, put)."""
        return () if self.take is None else ((self.take, self.put), *self.more)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a ``Builder`` takes at a time: ``regions`` of buffers by name.

    They make the rows from ``first`` on of ``matrix``, of one ``expert`` where there are several.
    """

    regions: Mapping[str, Region]
    matrix: str = ""
    expert: int = 0
    first: int = 0


class Builder(abc.ABC):
    """Makes the weights of one leaf of its pieces, so that all of its buffers are never in memory."""

    @abc.abstractmethod
    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """Take the regions of ``piece``, which are lent: they may lie in a file. What can be packed beside pieces of
        other leaves is left to ``runs``, until when the regions last. Several threads call it at once.
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """Give the leaf its weights, all pieces of which have come and are packed."""


class Leaf(nn.Module):
    """A module with an annotated boundary; ``forward`` is one device's plain code.

    Leaves hold prepared weights as plain attributes, so they cost nothing to call and nothing is kept twice.
    """

    boundary: Boundary
    optional: ClassVar[bool] = False
    """Whether a checkpoint may leave all of it out; it is then not prepared."""
    memory: ClassVar[Memory] = "any"
    """Where results lie: in memory made for them in the call (``own``), which a collective may then write to instead of
    copying; perhaps in that of placed arguments (``arguments``); or in what the leaf or the caller may keep (``any``).
    """

    def begin(self) -> None:
        """Make what is computed and not loaded; the checkpoint is known to fit by now, and no weight has been read."""

    def buffers_wanted(self) -> Mapping[str, Buffer]:
        """Tensors to fill, by name; none for a leaf without weights."""
        return {}

    def slot(self, part: str) -> Slot:
        """Where the checkpoint tensor called ``part`` by the model's mapping table goes."""
        raise KeyError(part)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Take the filled buffers, each one gone from ``tensors`` once it is no longer needed."""

    def layout(self) -> Hashable:
        """What decides slots, buffers and pieces: leaves that agree in it have the same. None: nothing is known."""
        return None

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """What ``builder`` wants, for buffers of these types; nothing where ``prepare`` has to take all at once."""
        return ()

    def builder(self) -> Builder:
        """Takes the pieces, in place of ``prepare``: a class that gives some says how they are taken."""
        return WholeBuilder(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.pieces is not Leaf.pieces and cls.builder is Leaf.builder:
            raise TypeError(f"{cls.__name__} gives pieces and no builder of them; define builder")


class WholeBuilder(Builder):
    """Prepares a leaf that takes all of its buffers at once."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """All buffers, which become the leaf's."""
        self.leaf.prepare(tensors)

    def finish(self) -> None:
        """It is prepared."""


class SharedLeaf(Leaf):
    """A leaf of one prepared ``weight``, which models of one rank that read the same tensors hold together."""

    weight: Any

    def form(self) -> Hashable:
        """What decides, besides those tensors, what ``prepare`` makes of them."""
        return None

    def share(self, other: "SharedLeaf") -> None:
        """Hold the weight of ``other``, in place of ``prepare``."""
        self.weight = other.weight


class AnnotatedModel(nn.Module):
    """A whole model: modules and leaves, and the annotations of its ends."""

    inputs: ClassVar[Mapping[str, Spec]]
    """Of the expressions that hold placed inputs, such as ``batch.tokens``."""
    gives: Gives

    @property
    def column_ids(self) -> Tensor | None:
        """Token of each column of the logits, int64; None where they are the columns' numbers."""
        return None


def cut(start: int, length: int) -> slice:
    """The slice of ``length`` from ``start``."""
    return slice(start, start + length)
