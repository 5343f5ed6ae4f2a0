"""What a module takes or gives at its boundary: named dimensions and a placement per mesh axis."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .placements import Placement, Shard


@dataclass(frozen=True, slots=True)
class Dim:
    """A named dimension; ``size`` is the global one, None where it changes from batch to batch.

    ``uneven``: parts may differ by one where ranks do not divide the size, the first ones longer (``part_of``).
    """

    name: str
    size: int | None = None
    uneven: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return self.name if self.size is None else f"{self.name}={self.size}"


TOKENS: Final = Dim("tokens")
SAMPLES: Final = Dim("samples")
"""Rows whose logits are wanted."""
COPIES: Final = Dim("copies")
"""Tokens as they were sent to the ranks of their experts: a token is there once for each rank that has one of them."""
BATCH_DIMS: Final = frozenset({"tokens", "samples", "copies"})
"""Dimensions that a module leaves as they are on the axes that it does not mention."""


@dataclass(frozen=True, init=False)
class Spec:
    """Dimensions of a tensor and its placement on the axes that matter here; an axis left out is not this module's
    business: batch dimensions stay as they are there, anything else is whole. The compiler checks the names.

    ``itemsize``: bytes of an element, where they are others than an activation's, whatever that is.
    """

    dims: tuple[Dim, ...]
    axes: Mapping[str, Placement]
    itemsize: int | None

    def __init__(self, *dims: Dim, **axes: Placement) -> None:
        object.__setattr__(self, "dims", dims)
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "itemsize", None)

    @property
    def batch(self) -> str | None:
        """Name of the batch dimension, which comes first, or None."""
        return self.dims[0].name if self.dims and self.dims[0].name in BATCH_DIMS else None

    def of_rows(self, batch: Dim, **axes: Placement) -> "Spec":
        """The same with ``batch`` for its first dimension, cut as that was, and ``axes`` in the place of its own."""
        old, new = Shard(self.dims[0].name), Shard(batch.name)
        own = {axis: new if placement == old else placement for axis, placement in self.axes.items()}
        return Spec(batch, *self.dims[1:], **{**own, **axes}).sized(self.itemsize)

    def sized(self, itemsize: int | None) -> "Spec":
        """The same with elements of ``itemsize`` bytes."""
        out = Spec(*self.dims, **self.axes)
        object.__setattr__(out, "itemsize", itemsize)
        return out

    def __str__(self) -> str:
        axes = ", ".join(f"{axis}: {p}" for axis, p in self.axes.items())
        return f"[{', '.join(map(str, self.dims))}]{{{axes}}}"


Gives = Spec | tuple[Spec, ...]
"""What a model returns: one tensor, or several."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A boundary argument without placement: batch metadata, caches, local indices."""

    def __str__(self) -> str:
        return "opaque"


OPAQUE: Final = Opaque()


@dataclass(frozen=True, slots=True)
class Routed:
    """Says that each row of the result comes from the same row of the arguments, and is zero on a rank of ``axis`` that
    has none of the row's ids (argument number ``ids``, [batch, chosen]) among its part of ``count``.

    Such rows need not be there at all, so a cut batch can be dispatched in place of gathered.
    """

    axis: str
    ids: int
    count: int


@dataclass(frozen=True, slots=True)
class Boundary:
    """What a module takes (positional arguments) and gives (one value, or a tuple).

    ``linear``: the result is a linear function of all placed arguments together (no constant is added), so where all of
    them are Partial(sum) each rank may map its addends on its own, and the result is Partial(sum). ``routed``: it has
    work for some rows alone. ``names`` of the results in the compiled code; by default each is called after its last
    dimension. A module that takes something ``OPAQUE`` may count rows in it, so its batch is cut over ``attn_dp`` (as
    the caller's batch is) and nowhere else, unless it says so.
    """

    takes: tuple[Spec | Opaque, ...]
    gives: tuple[Spec, ...]
    linear: bool = False
    names: tuple[str, ...] = ()
    routed: Routed | None = None
