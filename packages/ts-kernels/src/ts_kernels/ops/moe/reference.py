"""Routing and experts in plain torch (DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..activation.reference import gated
from ..gemm.reference import mlp
from ..gemm.weights import MlpWeight
from ..quantize.formats import QuantizedWeight
from .permutation import Permutation, capacity
from .weights import ExpertSource, ExpertWeights, matrix


def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int, scale: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Choose by sigmoid + bias within the best groups, weigh by the sigmoid."""
    scores = logits.sigmoid()
    choice = scores + bias
    if topk_group < n_group:
        grouped = choice.view(-1, n_group, choice.shape[1] // n_group)
        numbers = grouped.masked_fill(grouped.isnan(), -torch.inf)
        best = numbers.sort(dim=-1, descending=True).values[..., :2].sum(-1)
        chosen = _best_first(best)[:, :topk_group]
        open_groups = torch.zeros_like(best, dtype=torch.bool).scatter_(1, chosen, True)
        choice = torch.where(open_groups[..., None], grouped, -torch.inf).flatten(1)
    ids = _best_first(choice)[:, :top_k]
    weights = scores.gather(1, ids)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return _spoilt(weights, scores) * scale, ids.int()


def route_softmax(logits: Tensor, top_k: int, scale: float, normalize: bool) -> tuple[Tensor, Tensor]:
    """The largest logits; the softmax over them if ``normalize``, else over all."""
    ids = _best_first(logits)[:, :top_k]
    shares = logits.softmax(-1)
    weights = logits.gather(1, ids).softmax(-1) if normalize else shares.gather(1, ids)
    return _spoilt(weights, shares) * scale, ids.int()


def _best_first(x: Tensor) -> Tensor:
    """Indices of each row in falling order, ties by index, NaN last."""
    return (-x).sort(dim=-1, stable=True).indices


def _spoilt(weights: Tensor, row: Tensor) -> Tensor:
    """``weights``, NaN where any number of their row is."""
    return weights.masked_fill(row.isnan().any(-1, keepdim=True), torch.nan)


def permute(ids: Tensor, experts: int, block: int) -> Permutation:
    """A stable sort, each expert's share padded to whole blocks."""
    flat = ids.flatten().long()
    count, places = flat.shape[0], capacity(flat.shape[0], experts, block)
    inside = (flat >= 0) & (flat < experts)
    keys, order = torch.where(inside, flat, experts).sort(stable=True)
    starts = torch.searchsorted(keys, torch.arange(experts + 1, device=ids.device))
    padded = (starts.diff() + block - 1) // block * block
    offsets = F.pad(padded.cumsum(0), (1, 0))
    place = offsets[keys] + torch.arange(count, device=ids.device) - starts[keys]
    place = torch.where(keys < experts, place, places)  # what is left out shares one place past the end
    pairs = torch.full((places + 1,), count, dtype=torch.int32, device=ids.device)
    pairs = pairs.scatter_(0, place, order.int())[:places]
    first = torch.arange(0, places, block, device=ids.device)
    blocks = torch.searchsorted(offsets[1:], first, right=True)
    return Permutation(pairs, offsets.int(), torch.where(blocks < experts, blocks, -1).int(), block)


def grouped_linear(x: Tensor, ids: Tensor, weight: ExpertSource) -> Tensor:
    """Expert by expert, in fp32, rounded once."""
    wide = x.float()
    out = wide.new_zeros((*ids.shape, weight.shape[1]))
    for expert in _present(ids, weight.shape[0]):
        tokens, place = (ids == expert).nonzero(as_tuple=True)
        if isinstance(weight, QuantizedWeight):
            weight[expert].check_scales("moe.grouped_linear", "weight")
        out[tokens, place] = F.linear(wide[tokens], matrix(weight, expert))
    return out.to(x.dtype)


def combine(values: Tensor, weights: Tensor, ids: Tensor, experts: int, base: Tensor | None) -> Tensor:
    """A sum in the order of the choices, in fp32, rounded once."""
    tokens, k, width = values.shape
    out = torch.zeros((tokens, width), dtype=torch.float32, device=values.device) if base is None else base.float()
    inside = ((ids >= 0) & (ids.long() < experts))[..., None]
    for j in range(k):
        out = out + torch.where(inside[:, j], values[:, j].float() * weights[:, j, None], 0.0)
    return out.to(values.dtype)


def experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> Tensor:
    """Sum over each token's experts, fp32 throughout, rounded once; ids outside of [0, E) are skipped."""
    wide = x.float()
    out = torch.zeros_like(wide) if shared is None else mlp(wide, shared)
    for expert in _present(ids, layer.experts):
        tokens, place = (ids == expert).nonzero(as_tuple=True)
        out.index_add_(0, tokens, _expert(wide[tokens], layer, expert) * weights[tokens, place, None])
    return out.to(x.dtype)


def _expert(x: Tensor, layer: ExpertWeights, expert: int) -> Tensor:
    gate_up, down = layer.dequantize(expert)
    first = None if layer.gate_up_bias is None else layer.gate_up_bias[expert]
    second = None if layer.down_bias is None else layer.down_bias[expert]
    gate, up = F.linear(x, gate_up, first).chunk(2, dim=-1)
    return F.linear(gated(gate, up, layer.activation), down, second)


def _present(ids: Tensor, experts: int) -> list[int]:
    return [expert for expert in torch.unique(ids).tolist() if 0 <= expert < experts]
