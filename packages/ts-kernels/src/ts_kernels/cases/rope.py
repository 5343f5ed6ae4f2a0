"""Cases of ts_kernels.rope."""

from collections.abc import Iterator

from torch import Tensor

from ..ops import rope
from .common import Case, Maker, Sizes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """The rotation of a batch's query heads."""
    q, positions = make(s.rows, s.heads, s.head), make.shuffled(s.context)[: s.rows]
    table = table_of(s, make)
    yield Case(
        "rope.apply_interleaved",
        lambda impl: (rope.apply_interleaved(q.clone(), table, positions, impl=impl),),
        None,
        bytes=2 * s.rows * s.heads * s.rope * q.element_size() + s.rows * s.rope * 4,
    )


def table_of(s: Sizes, make: Maker) -> Tensor:
    """Cosines and sines for every position of the context."""
    return rope.yarn_cos_sin(s.rope, s.context, 50000.0, 32.0, 1024, 32.0, 1.0, 1.0, 1.0).to(make.device)
