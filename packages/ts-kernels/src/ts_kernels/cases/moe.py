"""Cases of ts_kernels.moe."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import moe, quantize
from .common import Case, Maker, Run, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    logits, bias = make(s.rows, s.experts).float(), make(s.experts, scale=0.1).float()

    def route(impl: str | None) -> tuple[Tensor, ...]:
        return moe.route_sigmoid(logits, bias, s.top_k, 1, 1, 2.827, True, impl=impl)

    yield Case("moe.route_sigmoid", route, None, bytes=nbytes(logits, bias) + s.rows * s.top_k * 8)
    yield Case("moe.route_softmax", lambda impl: moe.route_softmax(logits, s.top_k, normalize=True, impl=impl), None)
    weights, ids = route("reference")
    yield from _pieces(s, make, weights, ids)
    x = make(s.rows, s.hidden)
    gate_up, down = (
        make.weight(s.experts, 2 * s.expert_inter, s.hidden),
        make.weight(s.experts, s.hidden, s.expert_inter),
    )
    baseline = _torch_experts(x, weights, ids, gate_up.to(x.dtype), down.to(x.dtype))
    # Each expert that a row asked for is read once, whatever the rows; INT4 is half a byte and a bf16 scale a group.
    used, flops = len(set(ids.flatten().tolist())), 6 * s.rows * s.top_k * s.hidden * s.expert_inter
    # Formats whose native form is exact: others are compared in the tests, at what their form costs.
    for variant, quantize_, width in (
        ("bf16", lambda w: w, 2.0),
        ("int4", quantize.quantize_int4, 0.5 + 2 / 32),
        ("mxfp4", quantize.quantize_mxfp4, 0.5 + 1 / 32),
    ):
        layer = moe.prepare_experts(quantize_(gate_up), quantize_(down), keep_source=True)
        moved = int(used * 3 * s.hidden * s.expert_inter * width) + nbytes(x, x)
        run = _run_experts(x, weights, ids, layer)
        yield Case("moe.experts", run, baseline, bytes=moved, flops=flops, variant=variant)


def _pieces(s: Sizes, make: Maker, weights: Tensor, ids: Tensor) -> Iterator[Case]:
    def permute(impl: str | None) -> tuple[Tensor, ...]:
        order = moe.permute(ids, s.experts, block=16, impl=impl)
        return order.pairs, order.offsets, order.blocks

    yield Case("moe.permute", permute, None)
    x, down = make(s.rows, s.expert_inter), make.weight(s.experts, s.hidden, s.expert_inter)
    used = len(set(ids.flatten().tolist())) * s.hidden * s.expert_inter
    for variant, quantize_, width in (
        ("bf16", lambda w: w, 2.0),
        ("int4", quantize.quantize_int4, 0.5 + 2 / 32),
        ("mxfp4", quantize.quantize_mxfp4, 0.5 + 1 / 32),
        ("fp8-block", quantize.quantize_fp8_block, 1.0),
    ):
        moved = int(used * width) + nbytes(x) * (1 + s.top_k * s.hidden // s.expert_inter)
        flops = 2 * ids.numel() * s.hidden * s.expert_inter
        run = _run_grouped(x, ids, quantize_(down))
        yield Case("moe.grouped_linear", run, None, bytes=moved, flops=flops, variant=variant)
    values = make(s.rows, s.top_k, s.hidden)
    wide = weights.to(values.dtype)
    yield Case(
        "moe.combine",
        lambda impl: (moe.combine(values, weights, ids, s.experts, impl=impl),),
        lambda: torch.einsum("tkd,tk->td", values, wide),
    )


def _run_grouped(x: Tensor, ids: Tensor, weight: Tensor | quantize.QuantizedWeight) -> Run:
    return lambda impl: (moe.grouped_linear(x, ids, weight, impl=impl),)


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
