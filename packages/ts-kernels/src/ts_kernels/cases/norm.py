"""Cases of ts_kernels.norm."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from ..ops import norm
from .common import Case, Maker, Sizes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    x, residual, weight, bias = make(s.rows, s.hidden), make(s.rows, s.hidden), make(s.hidden), make(s.hidden)

    def plain() -> Tensor:
        return F.rms_norm(x, (s.hidden,), weight, 1e-5)

    def added() -> Tensor:
        return F.rms_norm(residual + x, (s.hidden,), weight, 1e-5)

    def centred() -> Tensor:
        return F.layer_norm(x, (s.hidden,), weight, bias, 1e-5)

    yield Case("norm.rms_norm", lambda impl: (norm.rms_norm(x, weight, 1e-5, impl=impl),), plain)
    yield Case("norm.add_rms_norm", lambda impl: norm.add_rms_norm(x, residual.clone(), weight, 1e-5, impl=impl), added)
    yield Case("norm.layer_norm", lambda impl: (norm.layer_norm(x, weight, bias, 1e-5, impl=impl),), centred)
