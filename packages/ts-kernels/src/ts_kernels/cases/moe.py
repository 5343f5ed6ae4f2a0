"""Cases of ts_kernels.moe."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import moe
from .common import Case, Maker, Run, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    logits, bias = make(s.rows, s.experts).float(), make(s.experts, scale=0.1).float()

    def route(impl: str | None) -> tuple[Tensor, ...]:
        return moe.route_sigmoid(logits, bias, s.top_k, 1, 1, 2.827, True, impl=impl)

    yield Case("moe.route_sigmoid", route, None, bytes=nbytes(logits, bias) + s.rows * s.top_k * 8)
    weights, ids = route("reference")
    x = make(s.rows, s.hidden)
    gate_up, down = (
        make.weight(s.experts, 2 * s.expert_inter, s.hidden),
        make.weight(s.experts, s.hidden, s.expert_inter),
    )
    baseline = _torch_experts(x, weights, ids, gate_up.to(x.dtype), down.to(x.dtype))
    # Each expert that a row asked for is read once, whatever the rows; INT4 is half a byte and a bf16 scale a group.
    used, flops = len(set(ids.flatten().tolist())), 6 * s.rows * s.top_k * s.hidden * s.expert_inter
    for pair, width in (((gate_up, down), 2.0), ((moe.quantize_int4(gate_up), moe.quantize_int4(down)), 0.5 + 2 / 32)):
        layer = moe.prepare_experts(*pair, keep_source=True)
        moved = int(used * 3 * s.hidden * s.expert_inter * width) + nbytes(x, x)
        yield Case("moe.experts", _run_experts(x, weights, ids, layer), baseline, bytes=moved, flops=flops)


def _run_experts(x: Tensor, weights: Tensor, ids: Tensor, layer: moe.ExpertWeights) -> Run:
    return lambda impl: (moe.experts(x, weights, ids, layer, impl=impl),)


def _torch_experts(x: Tensor, weights: Tensor, ids: Tensor, gate_up: Tensor, down: Tensor) -> Callable[[], object]:
    def run() -> Tensor:
        out = torch.zeros_like(x)
        for expert in ids.unique().tolist():  # type: ignore[no-untyped-call]
            tokens, place = (ids == expert).nonzero(as_tuple=True)
            gate, up = F.linear(x[tokens], gate_up[expert]).chunk(2, -1)
            part = F.linear(F.silu(gate) * up, down[expert])
            out.index_add_(0, tokens, part * weights[tokens, place, None].to(x.dtype))
        return out

    return run
