"""Native routing and experts (csrc/ops/route.cpp, experts.cpp). Arguments have passed the public functions' checks."""

import torch
from torch import Tensor

from ... import _native
from ...errors import ContractError
from .._tensors import CODE, rows
from ..gemm.weights import MlpWeight
from ..quantize.formats import Int4Weight
from .weights import ExpertSource, ExpertWeights


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


def pack(gate_up: ExpertSource, down: ExpertSource) -> _native.PackedExperts:
    """Copy a layer's experts into the kernels' layout; INT4 stays INT4."""
    experts_, doubled, hidden = gate_up.shape
    if isinstance(gate_up, Int4Weight) and isinstance(down, Int4Weight):
        parts = [t.contiguous() for t in (gate_up.packed, gate_up.scale, down.packed, down.scale)]
        first, first_scale, second, second_scale = (t.data_ptr() for t in parts)
        return _native.PackedExperts.from_int4(first, first_scale, second, second_scale, experts_, doubled // 2, hidden)
    if isinstance(gate_up, Int4Weight) or isinstance(down, Int4Weight):
        raise ContractError("moe.prepare_experts", "gate_up and down", "of one kind", "one Int4Weight, one tensor")
    up, low = gate_up.contiguous(), down.contiguous()
    code = CODE[up.dtype]
    return _native.PackedExperts.from_dense(up.data_ptr(), low.data_ptr(), code, experts_, doubled // 2, hidden)


def experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> Tensor:
    """Weighted sum of each token's experts, plus the shared one."""
    assert layer.packed is not None
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
    if layer.packed is None:
        return NotImplemented
    if shared is None:
        return layer.packed.direct(x, weights, ids, None)
    return NotImplemented if shared.packed is None else layer.packed.direct(x, weights, ids, shared.packed)
