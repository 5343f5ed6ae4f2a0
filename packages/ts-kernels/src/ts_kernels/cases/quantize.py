"""Cases of ts_kernels.quantize."""

from collections.abc import Iterator

from ..ops import quantize
from .common import Case, Maker, Sizes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """Activations of a batch to FP8."""
    x = make(s.rows, s.hidden)
    yield Case("quantize.fp8_per_token", lambda impl: quantize.fp8_per_token(x, impl=impl), None)
    yield Case("quantize.fp8_per_group", lambda impl: quantize.fp8_per_group(x, impl=impl), None)
