"""Cases of ts_kernels.linear_attention: a decode step of ``rows`` requests, and a prompt in three rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import linear_attention
from .common import Case, Maker, Sizes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    yield from _conv(s, make)
    yield from _delta(s, make)
    x, z, gain = make(s.rows * s.heads, s.v), make(s.rows * s.heads, s.v), make(s.v)

    def plain() -> Tensor:
        return F.rms_norm(x, (s.v,), gain, 1e-6) * F.silu(z)

    yield Case(
        "linear_attention.gated_rms_norm",
        lambda impl: (linear_attention.gated_rms_norm(x, z, gain, 1e-6, impl=impl),),
        plain,
    )
    pool, picked = make(2 * s.rows + 1, s.heads, s.nope, s.v).float(), make.shuffled(2 * s.rows + 1)

    def copy(impl: str | None) -> tuple[Tensor, ...]:
        target = pool.clone()
        linear_attention.copy_states(target, target, picked[: s.rows], picked[s.rows : 2 * s.rows], impl=impl)
        return (target,)

    yield Case("linear_attention.copy_states", copy, None)


@dataclass(frozen=True)
class _Rows:
    """A prompt cut into three rows, the last of which starts afresh, and their shuffled slots."""

    cu_q: Tensor
    slots: Tensor
    fresh: Tensor

    @classmethod
    def of(cls, s: Sizes, make: Maker) -> "_Rows":
        cu_q = torch.tensor([0, s.prompt // 3, s.prompt // 3 + 1, s.prompt], dtype=torch.int32, device=make.device)
        return cls(cu_q, make.shuffled(5)[:3], torch.tensor([False, False, True], device=make.device))

    def pool(self, make: Maker, *sizes: int) -> Tensor:
        """States of the slots in use, NaN elsewhere and in the fresh row's."""
        states = torch.full((5, *sizes), torch.nan, device=make.device)
        states[self.slots[:2]] = make(2, *sizes).float()
        return states


def _conv(s: Sizes, make: Maker) -> Iterator[Case]:
    channels = s.heads * (s.nope + s.v)
    weight, rows = make(channels, 4), _Rows.of(s, make)
    prompt, tokens = make(s.prompt, channels), make(s.rows, channels)
    pool, slots = make(s.rows + 2, 3, channels).float(), make.shuffled(s.rows + 2)[: s.rows]
    prompt_pool = rows.pool(make, 3, channels)

    def prefill(impl: str | None) -> tuple[Tensor, ...]:
        states = prompt_pool.clone()
        out = linear_attention.causal_conv(prompt, weight, states, rows.slots, rows.cu_q, rows.fresh, impl=impl)
        return out, states

    def step(impl: str | None) -> tuple[Tensor, ...]:
        states = pool.clone()
        return linear_attention.causal_conv_step(tokens, weight, states, slots, impl=impl), states

    def plain() -> Tensor:
        x = F.pad(prompt.t()[None], (3, 0))
        return F.silu(F.conv1d(x, weight[:, None], groups=channels))[0].t()

    yield Case("linear_attention.causal_conv", prefill, plain)
    yield Case("linear_attention.causal_conv_step", step, None)


def _delta(s: Sizes, make: Maker) -> Iterator[Case]:
    key_heads, rows = max(s.heads // 2, 1), _Rows.of(s, make)
    a_log, bias = make(s.heads).float(), make(s.heads).float()
    sizes = (s.heads, s.nope, s.v)

    def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        q, k = make(tokens, key_heads, s.nope), make(tokens, key_heads, s.nope)
        return q, k, make(tokens, s.heads, s.v), make(tokens, s.heads), make(tokens, s.heads)

    prompt, tokens = inputs(s.prompt), inputs(s.rows)
    pool, slots = make(s.rows + 2, *sizes).float(), make.shuffled(s.rows + 2)[: s.rows]
    prompt_pool = rows.pool(make, *sizes)

    def prefill(impl: str | None) -> tuple[Tensor, ...]:
        states = prompt_pool.clone()
        out = linear_attention.gated_delta(*prompt, a_log, bias, states, rows.slots, rows.cu_q, rows.fresh, impl=impl)
        return out, states

    def step(impl: str | None) -> tuple[Tensor, ...]:
        states = pool.clone()
        return linear_attention.gated_delta_step(*tokens, a_log, bias, states, slots, impl=impl), states

    def plain() -> Tensor:
        q, k, v, a, b = (t.float() for t in tokens)
        q, k = (F.normalize(t, dim=-1).repeat_interleave(s.heads // key_heads, 1) for t in (q, k))
        decay, beta = (-a_log.exp() * F.softplus(a + bias)).exp(), b.sigmoid()
        state = pool[slots] * decay[:, :, None, None]
        change = (v - torch.einsum("rgkv,rgk->rgv", state, k)) * beta[:, :, None]
        state += k[..., None] * change[:, :, None]
        pool[slots] = state
        out: Tensor = torch.einsum("rgkv,rgk->rgv", state, q) * s.nope**-0.5
        return out

    yield Case("linear_attention.gated_delta", prefill, None)
    yield Case("linear_attention.gated_delta_step", step, plain)
