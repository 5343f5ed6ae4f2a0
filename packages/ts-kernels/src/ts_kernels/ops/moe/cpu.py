"""Native routing and experts (csrc/ops/route.cpp, experts.cpp). Arguments have passed the public functions' checks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _native
from .._tensors import CODE, empty, rows
from ..gemm.cpu import pack_matrix
from ..gemm.weights import MlpWeight
from .weights import ExpertSource, ExpertWeights


def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int, scale: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Sigmoid scores, biased choice within groups."""
    logits, bias = rows(logits), rows(bias)
    tokens, experts_ = logits.shape
    weights = empty((tokens, top_k), torch.float32)
    ids = empty((tokens, top_k), torch.int32)
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
    weights = empty((tokens, top_k), torch.float32)
    ids = empty((tokens, top_k), torch.int32)
    pointers = (weights.data_ptr(), ids.data_ptr())
    _native.route_softmax(logits.data_ptr(), logits.stride(0), tokens, experts_, top_k, scale, normalize, *pointers)
    return weights, ids


def pack(layer: ExpertWeights) -> _native.PackedExperts:
    """Copy a layer's experts into the kernels' layout, in the format that they have, one matrix at a time."""
    gate_up, down = layer.sources()
    return join(
        layer,
        [_matrix("gate_up", gate_up, expert, layer.interleaved) for expert in range(layer.experts)],
        [_matrix("down", down, expert, False) for expert in range(layer.experts)],
    )


def join(
    layer: ExpertWeights, gate_up: Sequence[_native.PackedLinear], down: Sequence[_native.PackedLinear]
) -> _native.PackedExperts:
    """The packed matrices of a layer's experts together, with its activation and biases."""
    packed = _native.PackedExperts(gate_up, down)
    gate, biases = layer.activation, (layer.gate_up_bias, layer.down_bias)
    packed.configure(gate.code, gate.alpha, gate.limit, *(0 if b is None else b.data_ptr() for b in biases))
    return packed


def _matrix(argument: str, source: ExpertSource, expert: int, in_turn: bool) -> _native.PackedLinear:
    return pack_matrix("moe.prepare_experts", argument, source[expert], in_turn=in_turn)


def experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> Tensor:
    """Weighted sum of each token's experts, plus the shared one."""
    assert isinstance(layer.packed, _native.PackedExperts)
    x, weights, ids = rows(x), weights.contiguous(), ids.contiguous()
    out = empty(x.shape, x.dtype)
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
direct_route_softmax = _native.direct_route_softmax


def direct_experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> object:
    """``experts`` in one call; NotImplemented where a weight or a tensor is not as the kernel wants it."""
    if not isinstance(layer.packed, _native.PackedExperts):
        return NotImplemented
    if shared is None:
        return layer.packed.direct(x, weights, ids, None)
    return NotImplemented if shared.packed is None else layer.packed.direct(x, weights, ids, shared.packed)
