"""Activations in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .gates import Gated


def silu_mul(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` in fp32, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def swiglu_clamped(gate_up: Tensor, alpha: float, limit: float, interleaved: bool) -> Tensor:
    """``g * sigmoid(alpha * g) * (u + 1)`` of the clamped halves in fp32, rounded once."""
    wide = gate_up.float()
    gate, up = (wide[:, ::2], wide[:, 1::2]) if interleaved else wide.chunk(2, dim=-1)
    return gated(gate, up, Gated("swiglu_clamped", alpha, limit)).to(gate_up.dtype)


def gelu_mul(gate_up: Tensor, tanh: bool) -> Tensor:
    """``gelu(gate) * up`` in fp32, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return gated(gate, up, Gated("gelu_tanh" if tanh else "gelu")).to(gate_up.dtype)


def gelu(x: Tensor, tanh: bool) -> Tensor:
    """``x * Phi(x)`` in fp32, rounded once."""
    return _gelu(x.float(), tanh).to(x.dtype)


def gated(gate: Tensor, up: Tensor, activation: Gated) -> Tensor:
    """Any of the gated activations, of fp32 halves."""
    if activation.kind == "silu":
        return F.silu(gate) * up
    if activation.kind == "swiglu_clamped":
        gate = gate.clamp(max=activation.limit)
        up = up.clamp(-activation.limit, activation.limit)
        return gate * (gate * activation.alpha).sigmoid() * (up + 1)
    return _gelu(gate, activation.kind == "gelu_tanh") * up


def _gelu(x: Tensor, tanh: bool) -> Tensor:
    # Not torch's own of erf, which on a CPU is NaN or infinite at infinity as the tensor lies.
    return F.gelu(x, approximate="tanh") if tanh else 0.5 * x * torch.erfc(x * -(0.5**0.5))
