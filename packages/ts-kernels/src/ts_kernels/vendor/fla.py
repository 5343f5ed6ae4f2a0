"""Gated delta rules of flash-linear-attention (package fla-core, written in Triton) for GPUs.

They have not been run on hardware here, so they serve only where an override names them (``impl="fla"``). Arguments
follow the docstrings of ``fla.ops.gated_delta_rule`` (fla-core 0.6): they take the raw gates, and scale q and k to
length one themselves. Both copy the states of the rows out of the slots and back, which waits for the device: no graph
can hold them. Legend: T tokens, R rows, H key heads, G value heads, K key width, V value width, S slots.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..platform import TRITON_FEATURE
from ..plugins import Plugin, Registrar, installed
from ..registry import Band, Capability, KernelSpec, Trait

NAME = "fla"
_GPU = Capability(device="cuda", features=frozenset({TRITON_FEATURE}))
_FLOATS = frozenset({torch.float32, torch.bfloat16})
_WIDEST = 256  # key width that its chunked kernels take


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
    """``linear_attention.gated_delta`` through ``chunk_gated_delta_rule``."""
    call = _module().chunk_gated_delta_rule
    return _run(call, (q, k, v, a, b), a_log, dt_bias, states, slots, cu_q, scale, fresh)


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
    """``linear_attention.gated_delta_step`` through ``fused_recurrent_gated_delta_rule``."""
    call = _module().fused_recurrent_gated_delta_rule
    cu_q = torch.arange(slots.shape[0] + 1, device=slots.device)
    return _run(call, (q, k, v, a, b), a_log, dt_bias, states, slots, cu_q, scale, None)


def _run(
    call: Callable[..., tuple[Tensor, Tensor]],
    tokens: tuple[Tensor, ...],
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    cu_q: Tensor,
    scale: float,
    fresh: Tensor | None,
) -> Tensor:
    """One batch of rows one after another; padded rows (negative slots) are computed too and thrown away."""
    if not tokens[0].shape[0]:
        return torch.empty_like(tokens[2])
    used = slots >= 0
    before = states[slots.clamp(min=0)]
    if fresh is not None:
        before = before.masked_fill(fresh[:, None, None, None], 0.0)
    q, k, v, a, b = (x.contiguous()[None] for x in tokens)
    out, after = call(
        q,
        k,
        v,
        g=a,
        beta=b,
        scale=scale,
        initial_state=before,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        use_beta_sigmoid_in_kernel=True,
        use_gate_in_kernel=True,
        A_log=a_log,
        dt_bias=dt_bias,
        cu_seqlens=cu_q.long(),
    )
    states[slots[used]] = after[used].to(states.dtype)
    row = torch.bucketize(torch.arange(v.shape[1], device=v.device), cu_q[1:].long(), right=True)
    return out[0].masked_fill(~used[row][:, None, None], 0)


def _module() -> Any:
    """FLA's kernels, imported when the first of them runs."""
    return importlib.import_module("fla.ops.gated_delta_rule")


def register(registrar: Registrar) -> None:
    """Offer the kernels, if FLA is installed."""
    if not installed("fla"):
        return
    for name, function in (("gated_delta", gated_delta), ("gated_delta_step", gated_delta_step)):
        registrar.register(
            KernelSpec(
                operation=f"linear_attention.{name}",
                name=NAME,
                band=Band.UNPROVEN,
                load=lambda function=function: function,  # type: ignore[misc]
                capability=_GPU,
                dtypes={"q": _FLOATS},
                traits=(Trait(f"K at most {_WIDEST}", lambda dims: dims["K"] <= _WIDEST),),
            )
        )


plugin = Plugin(api_version=1, register=register)
