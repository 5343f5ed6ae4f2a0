"""Expert layers and grouped products. Legend: T tokens, k experts a token, P = T * k pairs, I intermediate."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....platform import device_info, interpreting
from ..._tensors import rows
from ...activation.gates import Gated
from ...gemm.weights import MlpWeight
from ..permutation import Permutation
from ..weights import ExpertSource, ExpertWeights
from . import gemm
from .combine import combine
from .launch import Launch, block_of, launch
from .permute import permute
from .tiles import TiledExperts, TiledMatrix, tile, tile_experts

FORMATS = {
    "dense": 0, "int4": 1, "int4-zp": 1, "mxfp4": 2, "nvfp4": 3, "fp8-block": 4, "fp8-channel": 5, "int8": 6,
    "int8-group": 7,
}  # fmt: skip
COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
ACTIVATE = 512


@dataclass(frozen=True)
class Product:
    """What a grouped product takes besides its matrix; ``choices`` pairs in a row share a row of x."""

    x: Tensor
    choices: int
    bias: Tensor | None = None
    activation: Gated | None = None
    interleaved: bool = False


def experts(x: Tensor, weights: Tensor, ids: Tensor, layer: ExpertWeights, shared: MlpWeight | None) -> Tensor:
    """Sort, gate and up with the activation, down, and the weighted sum."""
    tiled = layer.packed if isinstance(layer.packed, TiledExperts) else tile_experts(layer)
    ids = ids.contiguous()
    base = None if shared is None else _shared(x, shared)
    if ids.numel() == 0:
        return torch.zeros_like(x, memory_format=torch.contiguous_format) if base is None else base
    first = Product(rows(x), ids.shape[1], layer.gate_up_bias, layer.activation, layer.interleaved)
    order = permute(ids, layer.experts, block_of(ids.numel(), layer.experts))
    hidden = _gate_up(first, tiled.gate_up, ids, order)
    values = _run(Product(hidden, 1, layer.down_bias), tiled.down, ids, order)
    return combine(values.view(*ids.shape, layer.hidden), weights, ids, layer.experts, base, dtype=x.dtype)


def grouped_linear(x: Tensor, ids: Tensor, weight: ExpertSource) -> Tensor:
    """Each pair's row times its expert's matrix."""
    matrix, ids = tile(weight), ids.contiguous()
    count = matrix.values.shape[0]
    if ids.numel() == 0:
        return x.new_empty((*ids.shape, matrix.rows))
    order = permute(ids, count, block_of(ids.numel(), count))
    values = _run(Product(rows(x), ids.shape[1]), matrix, ids, order).view(*ids.shape, matrix.rows)
    inside = ((ids >= 0) & (ids < count))[..., None]
    return torch.where(inside, values, 0.0).to(x.dtype)


def _shared(x: Tensor, shared: MlpWeight) -> Tensor:
    from ...gemm import mlp

    return mlp(x, shared)


def _gate_up(product: Product, matrix: TiledMatrix, ids: Tensor, order: Permutation) -> Tensor:
    """[P, I], activated."""
    count, activation = ids.numel(), product.activation
    assert activation is not None
    plan = _plan(matrix, count, product.x.element_size(), gated=True)
    out = torch.empty((count, matrix.rows // 2), dtype=between(product.x.dtype), device=ids.device)
    if plan.split == 1:
        _launch(product, matrix, order, plan, out, count)
        return out
    parts = torch.empty((plan.split, count, matrix.rows), dtype=torch.float32, device=ids.device)
    _launch(Product(product.x, product.choices), matrix, order, plan, parts, count)
    block = min(ACTIVATE, triton.next_power_of_2(matrix.rows // 2))
    gemm.gate_kernel[(count, triton.cdiv(matrix.rows // 2, block))](
        parts, ids, parts if product.bias is None else product.bias, out, count, matrix.values.shape[0], matrix.rows,
        activation.alpha, activation.limit, SPLIT=plan.split, HAS_BIAS=product.bias is not None, GATE=activation.code,
        INTERLEAVED=product.interleaved, BLOCK=block,
    )  # fmt: skip
    return out


def _run(product: Product, matrix: TiledMatrix, ids: Tensor, order: Permutation) -> Tensor:
    """[P, N]; rows of pairs that are left out are not written."""
    count = ids.numel()
    out = torch.empty((count, matrix.rows), dtype=between(product.x.dtype), device=ids.device)
    plan = _plan(matrix, count, product.x.element_size(), gated=False)
    _launch(product, matrix, order, plan, out, count)
    return out


def _plan(matrix: TiledMatrix, count: int, size: int, *, gated: bool) -> Launch:
    sizes = (count, matrix.values.shape[0], matrix.rows, matrix.columns)
    device, size = device_info(matrix.values.device), max(size, matrix.values.element_size())
    return launch(matrix.kind, *sizes, gated=gated, device=device, size=size)


def _launch(product: Product, matrix: TiledMatrix, order: Permutation, plan: Launch, out: Tensor, count: int) -> None:
    x, activation = product.x, product.activation
    gate, alpha, limit = (-1, 0.0, 0.0) if activation is None else (activation.code, activation.alpha, activation.limit)
    tiles = triton.cdiv(matrix.rows // 2, plan.block_n // 2) if gate >= 0 else triton.cdiv(matrix.rows, plan.block_n)
    held = [matrix.values if t is None else t for t in (matrix.scale, matrix.zero, matrix.row_scale)]
    gemm.grouped_kernel[(order.blocks.shape[0] * tiles, plan.split)](
        x, matrix.values, *held, x if product.bias is None else product.bias, order.pairs, order.blocks, out,
        count, matrix.rows, matrix.columns, product.choices, x.stride(0), alpha, limit,
        **constants(matrix, compute(x.dtype), gate), HAS_BIAS=product.bias is not None, INTERLEAVED=product.interleaved,
        SPLIT=plan.split, BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip


def constants(matrix: TiledMatrix, compute: tl.dtype, gate: int) -> dict[str, Any]:
    """What the kernel is compiled for, by the weight's format."""
    return {
        "FORMAT": FORMATS[matrix.kind],
        "GROUP": min(matrix.group, 128),
        "ASYMMETRIC": matrix.zero is not None,
        "EVEN_K": matrix.columns % 128 == 0,
        "COMPUTE": compute,
        "GATE": gate,
    }


def compute(dtype: torch.dtype) -> tl.dtype:
    """What products multiply: the activations' type, but fp32 in the interpreter, which cannot multiply bf16."""
    return tl.float32 if interpreting() else COMPUTE[dtype]


def between(dtype: torch.dtype) -> torch.dtype:
    """What is kept between two kernels: the activations' type, but fp32 in the interpreter, which truncates to bf16."""
    return torch.float32 if interpreting() else dtype
