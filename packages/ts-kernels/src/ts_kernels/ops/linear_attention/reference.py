"""Gated delta nets in plain torch: the recurrent definition, one token after another, in fp32.

Legend: T tokens, R rows, C channels, W width, H key heads, G value heads, K key width, V value width, S slots.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..norm.reference import rms_norm

_NORM_EPS = 1e-6


def causal_conv(
    x: Tensor, weight: Tensor, states: Tensor, slots: Tensor, cu_q: Tensor, fresh: Tensor | None = None
) -> Tensor:
    """Each row's tokens after its last W-1 inputs, which it leaves behind."""
    out = torch.zeros_like(x)
    spans = cu_q.tolist()
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        before = states[slot]
        if fresh is not None:
            before = torch.where(fresh[row], 0.0, before)
        inputs = torch.cat((before, x[spans[row] : spans[row + 1]].float()))
        if spans[row] < spans[row + 1]:
            windows = inputs.unfold(0, weight.shape[1], 1)
            out[spans[row] : spans[row + 1]] = F.silu((windows * weight.float()).sum(-1)).to(x.dtype)
        states[slot] = inputs[len(inputs) - len(before) :]
    return out


def causal_conv_step(x: Tensor, weight: Tensor, states: Tensor, slots: Tensor) -> Tensor:
    """One token a row."""
    return causal_conv(x, weight, states, slots, torch.arange(len(slots) + 1, device="cpu"))


def gates(a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Decay of the state and strength of the update, fp32 [T, G]."""
    decay = (-a_log.float().exp() * F.softplus(a.float() + dt_bias.float())).exp()
    return decay, b.float().sigmoid()


def _unit(x: Tensor) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + _NORM_EPS)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor,
    scale: float,
    fresh: Tensor | None = None,
) -> Tensor:
    """``S = decay S; S += k (beta (v - S^T k))^T; out = S^T q`` for each token of each row."""
    shared = v.shape[1] // k.shape[1]
    keys, queries = (_unit(t).repeat_interleave(shared, dim=1) for t in (k, q))
    queries = queries * scale
    decay, beta = gates(a, b, a_log, dt_bias)
    values, out = v.float(), torch.zeros(v.shape, dtype=v.dtype, device=v.device)
    spans = cu_q.tolist()
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        state = states[slot].clone()
        if fresh is not None:
            state = torch.where(fresh[row], 0.0, state)
        for t in range(spans[row], spans[row + 1]):
            state = state * decay[t, :, None, None]
            recalled = torch.einsum("gkv,gk->gv", state, keys[t])
            change = (values[t] - recalled) * beta[t, :, None]
            state = state + keys[t, :, :, None] * change[:, None, :]
            out[t] = torch.einsum("gkv,gk->gv", state, queries[t]).to(v.dtype)
        states[slot] = state
    return out


def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    scale: float,
) -> Tensor:
    """One token a row."""
    return gated_delta(q, k, v, a, b, a_log, dt_bias, states, slots, torch.arange(len(slots) + 1, device="cpu"), scale)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(x) * silu(z)``, rounded once."""
    return (rms_norm(x.float(), weight, eps) * F.silu(z.float())).to(x.dtype)


def copy_states(source: Tensor, target: Tensor, from_slots: Tensor, to_slots: Tensor) -> None:
    """``target[to] = source[from]``; a pair with a negative slot is skipped."""
    used = (from_slots >= 0) & (to_slots >= 0)
    target[to_slots[used]] = source[from_slots[used]]
