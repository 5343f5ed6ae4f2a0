"""Cases of ts_kernels.activation."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from ..ops import activation
from .common import Case, Maker, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """The gate of a dense MLP, in each of its forms, and a plain GELU."""
    gate_up = make(s.rows, 2 * s.inter)
    gate, up = gate_up[:, : s.inter], gate_up[:, s.inter :]
    yield Case(
        "activation.silu_mul",
        lambda impl: (activation.silu_mul(gate_up, impl=impl),),
        lambda: F.silu(gate) * up,
        bytes=nbytes(gate_up) * 3 // 2,
    )
    yield Case(
        "activation.swiglu_clamped",
        lambda impl: (activation.swiglu_clamped(gate_up, limit=1.0, interleaved=True, impl=impl),),
        lambda: _clamped(gate_up[:, ::2].clamp(max=1.0)) * (gate_up[:, 1::2].clamp(-1.0, 1.0) + 1),
    )
    yield Case(
        "activation.gelu_mul", lambda impl: (activation.gelu_mul(gate_up, impl=impl),), lambda: F.gelu(gate) * up
    )
    yield Case(
        "activation.gelu",
        lambda impl: (activation.gelu(gate_up, tanh=True, impl=impl),),
        lambda: F.gelu(gate_up, approximate="tanh"),
    )


def _clamped(gate: Tensor) -> Tensor:
    return gate * (gate * 1.702).sigmoid()
