"""Cases of ts_kernels.rope."""

from collections.abc import Iterator

import torch
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
    halves = rope.cos_sin(s.rope, s.context, 50000.0).to(make.device)
    yield Case("rope.apply_halves", lambda impl: (rope.apply_halves(q.clone(), halves, positions, impl=impl),), None)
    axes = torch.stack([make.shuffled(s.context)[: s.rows] for _ in range(3)])
    pairs = s.rope // 2
    sections = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    yield Case(
        "rope.apply_multimodal",
        lambda impl: (rope.apply_multimodal(q.clone(), halves, axes, sections, impl=impl),),
        None,
    )
    plane = rope.cos_sin(s.head // 2, s.context, 10000.0).to(make.device)
    yield Case("rope.apply_2d", lambda impl: (rope.apply_2d(q.clone(), plane, axes[:2], impl=impl),), None)


def table_of(s: Sizes, make: Maker) -> Tensor:
    """Cosines and sines for every position of the context."""
    return rope.yarn_cos_sin(s.rope, s.context, 50000.0, 32.0, 1024, 32.0, 1.0, 1.0, 1.0).to(make.device)
