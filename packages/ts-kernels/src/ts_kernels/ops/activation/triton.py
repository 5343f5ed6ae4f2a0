"""Activations in Triton. Arguments have passed the public functions' checks. Legend: T tokens, D width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._tensors import rows
from .gates import GATES

BLOCK = 1024


@triton.jit
def gelu_of(x, TANH: tl.constexpr):
    """x * Phi(x) of fp32; (1 + tanh(u)) / 2 is sigmoid(2u)."""
    if TANH:
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        value = x * tl.where(twice > -80.0, tl.sigmoid(tl.maximum(twice, -80.0)), 0.0)
    else:
        value = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return value


@triton.jit
def gated_of(gate, up, alpha, limit, GATE: tl.constexpr):
    """One of ``gates.GATES`` of fp32 halves."""
    if GATE == 0:
        value = gate * tl.sigmoid(gate) * up
    elif GATE == 1:
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        value = gate * tl.sigmoid(gate * alpha) * (up + 1.0)
    else:
        value = gelu_of(gate, GATE == 3) * up
    return value


@triton.jit
def gated_kernel(
    gate_up, out, stride, inter, alpha, limit, GATE: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr
):
    """One program for BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inter
    if INTERLEAVED:
        both = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
        pairs = tl.load(gate_up + row * stride + both, mask=both < 2 * inter, other=0.0).to(tl.float32)
        gate, up = tl.split(tl.reshape(pairs, (BLOCK, 2)))
    else:
        gate = tl.load(gate_up + row * stride + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * stride + inter + column, mask=inside, other=0.0).to(tl.float32)
    value = gated_of(gate, up, alpha, limit, GATE)
    tl.store(out + row * inter + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gelu_kernel(x, out, stride, D, TANH: tl.constexpr, BLOCK: tl.constexpr):
    """One program for BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + column, gelu_of(value, TANH).to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    return _gated(gate_up, "silu")


def swiglu_clamped(gate_up: Tensor, alpha: float, limit: float, interleaved: bool) -> Tensor:
    """``g * sigmoid(alpha * g) * (u + 1)``."""
    return _gated(gate_up, "swiglu_clamped", alpha, limit, interleaved)


def gelu_mul(gate_up: Tensor, tanh: bool) -> Tensor:
    """``gelu(gate) * up``."""
    return _gated(gate_up, "gelu_tanh" if tanh else "gelu")


def gelu(x: Tensor, tanh: bool) -> Tensor:
    """``x * Phi(x)``."""
    x = rows(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        grid = (x.shape[0], triton.cdiv(x.shape[1], BLOCK))
        gelu_kernel[grid](x, out, x.stride(0), x.shape[1], TANH=tanh, BLOCK=BLOCK)
    return out


def _gated(gate_up: Tensor, gate: str, alpha: float = 0.0, limit: float = 0.0, interleaved: bool = False) -> Tensor:
    gate_up = rows(gate_up)
    count, inter = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((count, inter), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        grid = (count, triton.cdiv(inter, BLOCK))
        gated_kernel[grid](
            gate_up, out, gate_up.stride(0), inter, alpha, limit,
            GATE=GATES[gate], INTERLEAVED=interleaved, BLOCK=BLOCK,
        )  # fmt: skip
    return out
