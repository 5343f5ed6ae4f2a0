"""Cases of ts_kernels.norm."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from ..ops import norm
from .common import Case, Maker, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    x, residual, weight, bias = make(s.rows, s.hidden), make(s.rows, s.hidden), make(s.hidden), make(s.hidden)

    def plain() -> Tensor:
        return F.rms_norm(x, (s.hidden,), weight, 1e-5)

    def added() -> Tensor:
        return F.rms_norm(residual + x, (s.hidden,), weight, 1e-5)

    def centred() -> Tensor:
        return F.layer_norm(x, (s.hidden,), weight, bias, 1e-5)

    def add(impl: str | None) -> tuple[Tensor, ...]:
        return norm.add_rms_norm(x, residual.clone(), weight, 1e-5, impl=impl)

    def centre(impl: str | None) -> tuple[Tensor, ...]:
        return (norm.layer_norm(x, weight, bias, 1e-5, impl=impl),)

    moved = nbytes(x, weight, x)  # read, and a result of x's size
    yield Case("norm.rms_norm", lambda impl: (norm.rms_norm(x, weight, 1e-5, impl=impl),), plain, bytes=moved)
    yield Case("norm.add_rms_norm", add, added, bytes=moved + 2 * nbytes(residual))
    yield Case("norm.layer_norm", centre, centred, bytes=moved + nbytes(bias))
