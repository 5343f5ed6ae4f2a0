"""Native gated delta nets (csrc/ops/conv.cpp, linear_attention.cpp). Arguments have passed the public checks."""

from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows


def causal_conv(
    x: Tensor,
    weight: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor | None,
    fresh: Tensor | None = None,
) -> Tensor:
    """Several rows' tokens; without ``cu_q`` one token a row."""
    x, weight, slots = rows(x), weight.contiguous(), slots.contiguous()
    spans, new = _dense(cu_q), _dense(fresh)
    tokens, channels = x.shape
    out = empty((tokens, channels), x.dtype)
    _native.causal_conv(
        x.data_ptr(),
        x.stride(0),
        tokens,
        CODE[x.dtype],
        weight.data_ptr(),
        CODE[weight.dtype],
        states.data_ptr(),
        states.shape[0],
        slots.data_ptr(),
        _address(spans),
        _address(new),
        slots.shape[0],
        channels,
        weight.shape[1],
        out.data_ptr(),
    )
    return out


def causal_conv_step(x: Tensor, weight: Tensor, states: Tensor, slots: Tensor) -> Tensor:
    """One token a row."""
    return causal_conv(x, weight, states, slots, None)


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
    cu_q: Tensor | None,
    scale: float,
    fresh: Tensor | None = None,
) -> Tensor:
    """Several rows' tokens; without ``cu_q`` one token a row."""
    q, k, v = (_dense_heads(t) for t in (q, k, v))
    a, b, slots = rows(a), rows(b), slots.contiguous()
    a_log, dt_bias = a_log.contiguous(), dt_bias.contiguous()
    spans, new = _dense(cu_q), _dense(fresh)
    tokens, heads, width = k.shape
    out = empty(v.shape, v.dtype)
    _native.gated_delta(
        q.data_ptr(),
        q.stride(0),
        k.data_ptr(),
        k.stride(0),
        v.data_ptr(),
        v.stride(0),
        tokens,
        CODE[q.dtype],
        a.data_ptr(),
        a.stride(0),
        b.data_ptr(),
        b.stride(0),
        CODE[a.dtype],
        a_log.data_ptr(),
        dt_bias.data_ptr(),
        states.data_ptr(),
        states.shape[0],
        slots.data_ptr(),
        _address(spans),
        _address(new),
        slots.shape[0],
        heads,
        v.shape[1],
        width,
        v.shape[2],
        scale,
        out.data_ptr(),
    )
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
    return gated_delta(q, k, v, a, b, a_log, dt_bias, states, slots, None, scale)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm times SiLU of the gate."""
    x, z, weight = rows(x), rows(z), weight.contiguous()
    count, dim = x.shape
    out = empty((count, dim), x.dtype)
    _native.gated_rms_norm(
        x.data_ptr(),
        x.stride(0),
        z.data_ptr(),
        z.stride(0),
        weight.data_ptr(),
        CODE[weight.dtype],
        eps,
        out.data_ptr(),
        count,
        dim,
        CODE[x.dtype],
    )
    return out


def copy_states(source: Tensor, target: Tensor, from_slots: Tensor, to_slots: Tensor) -> None:
    """Copy slots."""
    first, second = from_slots.contiguous(), to_slots.contiguous()
    count, size = first.shape[0], source[0].numel() * source.element_size() if source.shape[0] else 0
    pools = (source.data_ptr(), source.shape[0], target.data_ptr(), target.shape[0])
    _native.copy_states(*pools, first.data_ptr(), second.data_ptr(), count, size)


def _dense(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _dense_heads(t: Tensor) -> Tensor:
    """``t`` [T, H, K] if a token's heads are dense, else a copy whose are."""
    _, heads, width = t.shape
    dense = (width == 1 or t.stride(2) == 1) and (heads == 1 or t.stride(1) == width)
    return t if dense else t.contiguous()


# Shortcuts that take the public arguments; see Operation.direct.
direct_causal_conv_step = _native.direct_causal_conv_step
direct_gated_delta_step = _native.direct_gated_delta_step
direct_gated_rms_norm = _native.direct_gated_rms_norm
