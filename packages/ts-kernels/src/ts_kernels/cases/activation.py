"""Cases of ts_kernels.activation."""

from collections.abc import Iterator

from torch.nn import functional as F

from ..ops import activation
from .common import Case, Maker, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """The gate of a dense MLP."""
    gate_up = make(s.rows, 2 * s.inter)
    yield Case(
        "activation.silu_mul",
        lambda impl: (activation.silu_mul(gate_up, impl=impl),),
        lambda: F.silu(gate_up[:, : s.inter]) * gate_up[:, s.inter :],
        bytes=nbytes(gate_up) * 3 // 2,
    )
