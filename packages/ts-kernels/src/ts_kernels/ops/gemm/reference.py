"""Matrix products in plain torch, fp32 accumulation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import contract
from .weights import LinearWeight, MlpWeight


def linear(x: Tensor, weight: Tensor | LinearWeight, out_dtype: torch.dtype) -> Tensor:
    """``x @ weight.T + bias`` in fp32, rounded once."""
    if isinstance(weight, Tensor):
        return F.linear(x.float(), weight.float()).to(out_dtype)
    return F.linear(x.float(), weight.dequantize().float(), weight.bias).to(out_dtype)


def mlp(x: Tensor, weight: MlpWeight) -> Tensor:
    """``down(silu(gate(x)) * up(x))`` in fp32, rounded once."""
    up, down = weight.gate_up, weight.down
    return gated(x.float(), up.dequantize(), down.dequantize(), up.bias, down.bias).to(x.dtype)


def gated(
    x: Tensor, gate_up: Tensor, down: Tensor, up_bias: Tensor | None = None, down_bias: Tensor | None = None
) -> Tensor:
    """The gated MLP of fp32 rows with plain weights, fp32 throughout."""
    gate, up = F.linear(x, gate_up.float(), up_bias).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down.float(), down_bias)


def gather_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """``table[ids]`` in ``dtype``; on a CPU the ids are checked, elsewhere that would wait for the device."""
    if ids.is_cpu:
        contract.in_range("gemm.gather_rows", "ids", ids, 0, table.shape[0])
    return table[ids.long()].to(dtype)
