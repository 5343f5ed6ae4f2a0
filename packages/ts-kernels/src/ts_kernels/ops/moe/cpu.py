"""Native routing and experts (csrc/ops/route.cpp, experts.cpp). Arguments have passed the public functions' checks."""

import torch
from torch import Tensor

from ... import _native
from .._tensors import CODE, rows
from ..gemm.weights import MlpWeight
from ..quantize.formats import Int4Weight
from .weights import ExpertSource, ExpertWeights, gate_first, matrix

INT4_GROUP = 32


def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int, scale: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Sigmoid scores, biased choice within groups."""
    logits, bias = rows(logits), rows(bias)
    tokens, experts_ = logits.shape
    weights = torch.empty((tokens, top_k), dtype=torch.float32)
    ids = torch.empty((tokens, top_k), dtype=torch.int32)
    _native.route_sigmoid(
        logits.data_ptr(),
        logits.stride(0),
        tokens,
        experts_,
        bias.data_ptr(),
        top_k,
        n_group,
        topk_group,
        scale,
        normalize,
        weights.data_ptr(),
        ids.data_ptr(),
    )
    return weights, ids


def route_softmax(logits: Tensor, top_k: int, scale: float, normalize: bool) -> tuple[Tensor, Tensor]:
    """The largest logits, weighed by a softmax."""
    logits = rows(logits)
    tokens, experts_ = logits.shape
    weights = torch.empty((tokens, top_k), dtype=torch.float32)
    ids = torch.empty((tokens, top_k), dtype=torch.int32)
    pointers = (weights.data_ptr(), ids.data_ptr())
    _native.route_softmax(logits.data_ptr(), logits.stride(0), tokens, experts_, top_k, scale, normalize, *pointers)
    return weights, ids


def pack(layer: ExpertWeights) -> _native.PackedExperts:
    """Copy a layer's experts into the kernels' layout.

    Symmetric INT4 with bf16 scales stays INT4. Every other format of ``ts_kernels.quantize`` becomes bf16: that is
    exact for MXFP4, and rounds once otherwise (2^-9 of a weight, where FP8 itself has 2^-4).
    """
    gate_up, down = layer.sources()
    sizes = (layer.experts, layer.inter, layer.hidden)
    if _stays_int4(gate_up) and _stays_int4(down):
        parts = (*_groups_of_32(gate_up, layer.interleaved), *_groups_of_32(down, False))
        up, up_scale, low, low_scale = (part.data_ptr() for part in parts)
        packed = _native.PackedExperts.from_int4(up, up_scale, low, low_scale, *sizes)
    else:
        first, second = _dense(gate_up, layer.interleaved), _dense(down, False)
        packed = _native.PackedExperts.from_dense(first.data_ptr(), second.data_ptr(), CODE[first.dtype], *sizes)
    gate, biases = layer.activation, (layer.gate_up_bias, layer.down_bias)
    packed.configure(gate.code, gate.alpha, gate.limit, *(0 if b is None else b.data_ptr() for b in biases))
    return packed


def _stays_int4(source: ExpertSource) -> bool:
    """The kernels have groups of 32, which wider ones become by repeating their scale."""
    return (
        isinstance(source, Int4Weight)
        and source.zero_point is None
        and source.scale.dtype == torch.bfloat16
        and source.group % INT4_GROUP == 0
    )


def _groups_of_32(source: ExpertSource, interleaved: bool) -> tuple[Tensor, Tensor]:
    assert isinstance(source, Int4Weight)
    wider = source.group // INT4_GROUP
    scale = source.scale if wider == 1 else source.scale.repeat_interleave(wider, dim=-1)
    parts = (source.packed, scale)
    packed, scale = (torch.cat((p[:, ::2], p[:, 1::2]), 1) if interleaved else p for p in parts)
    return packed.contiguous(), scale.contiguous()


def _dense(source: ExpertSource, interleaved: bool) -> Tensor:
    if isinstance(source, Tensor):
        return (torch.cat((source[:, ::2], source[:, 1::2]), 1) if interleaved else source).contiguous()
    out = torch.empty(source.shape, dtype=torch.bfloat16)
    for expert in range(source.shape[0]):
        whole = matrix(source, expert)
        out[expert] = gate_first(whole) if interleaved else whole
    return out


def experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> Tensor:
    """Weighted sum of each token's experts, plus the shared one."""
    assert isinstance(layer.packed, _native.PackedExperts)
    x, weights, ids = rows(x), weights.contiguous(), ids.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype)
    layer.packed.run(
        x.data_ptr(),
        x.stride(0),
        x.shape[0],
        CODE[x.dtype],
        weights.data_ptr(),
        ids.data_ptr(),
        ids.shape[1],
        None if shared is None else shared.packed,
        out.data_ptr(),
    )
    return out


# Shortcuts that take the public arguments; see Operation.direct.
direct_route_sigmoid = _native.direct_route_sigmoid


def direct_experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> object:
    """``experts`` in one call; NotImplemented where a weight or a tensor is not as the kernel wants it."""
    if not isinstance(layer.packed, _native.PackedExperts):
        return NotImplemented
    if shared is None:
        return layer.packed.direct(x, weights, ids, None)
    return NotImplemented if shared.packed is None else layer.packed.direct(x, weights, ids, shared.packed)
