"""Block sizes, and how each weight format is handed to the kernel. Arguments have passed the public checks."""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from ....platform import DeviceInfo, device_info, interpreting
from ..._tensors import rows
from ...quantize.formats import (
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
)
from ..weights import LinearWeight, MlpWeight, Source
from .kernel import add_parts_kernel, linear_kernel


@dataclass(frozen=True)
class Operand:
    """A weight as the kernel reads it: ``group`` 0 where ``column``, a factor for each output, or nothing scales it."""

    kind: str
    values: Tensor
    group: int = 0
    scale: Tensor | None = None
    zero: Tensor | None = None
    column: Tensor | None = None
    block_scale: bool = False

    @property
    def words(self) -> bool:
        """Whether a word holds eight weights."""
        return self.values.dtype == torch.int32

    @property
    def code(self) -> float:
        """Bytes of one weight."""
        return 0.5 if self.words else float(self.values.element_size())


def operand_of(weight: Source) -> Operand:
    """The tensors of a weight, contiguous."""
    match weight:
        case Int4Weight():
            zero = None if weight.zero_point is None else weight.zero_point.contiguous()
            return _grouped("int4", weight.group, weight.packed, weight.scale, zero)
        case Int8Weight():
            return _grouped("int8", weight.group, weight.values, weight.scale)
        case Fp8BlockWeight():
            return Operand("fp8", _bytes(weight.values), scale=weight.scale_inv.contiguous(), block_scale=True)
        case Fp8ChannelWeight():
            return Operand("fp8", _bytes(weight.values), column=weight.scale.contiguous())
        case Mxfp4Weight() | Nvfp4Weight():
            return _fp4(weight)
    assert isinstance(weight, Tensor), f"no Triton form of {type(weight).__name__}"
    return Operand("dense", weight.contiguous())


def _fp4(weight: Mxfp4Weight | Nvfp4Weight) -> Operand:
    """Bytes of two codes are words of eight: the lower k in the lower bits."""
    if isinstance(weight, Mxfp4Weight):
        words = weight.blocks.contiguous().view(torch.int32)
        return Operand("mxfp4", words, weight.group, weight.scales.contiguous())
    words = weight.packed.contiguous().view(torch.int32)
    return Operand("nvfp4", words, weight.group, _bytes(weight.scale), column=weight.row_scale().contiguous())


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _grouped(kind: str, group: int, values: Tensor, scale: Tensor, zero: Tensor | None = None) -> Operand:
    """One scale a row is a column's factor of the product."""
    values, scale = values.contiguous(), scale.contiguous()
    if scale.shape[-1] == 1:
        return Operand(kind, values, zero=zero, column=scale)
    return Operand(kind, values, group, scale, zero)


@dataclass(frozen=True)
class Blocks:
    """Block sizes and how many parts K is split into."""

    m: int
    n: int
    k: int
    split: int
    warps: int
    stages: int


def blocks_of(
    sizes: tuple[int, int, int], programs: int, device: DeviceInfo, size: int, code: float, *, zero: bool
) -> Blocks:
    """Blocks for M, N, K; ``size`` bytes a number of x, ``code`` one of the weight. As many stages as fit."""
    b = _blocks(*sizes, programs, device, size, zero)
    widened = 0 if code == size else b.n * b.k * size
    return replace(b, stages=device.stages(b.stages, int(b.k * (b.m * size + b.n * code)), widened))


def _blocks(m: int, n: int, k: int, programs: int, device: DeviceInfo, size: int, zero: bool) -> Blocks:
    """Tall blocks for prefill; for few rows narrow ones, and parts of K until ``programs`` have work (at most 16)."""
    if m > 64:  # 64 columns spill: of fp32 on sm_100 (20 bytes a thread), with zero points on sm_120 (60)
        narrow = size == 4 or (zero and device.vendor == "nvidia" and not device.products_from_shared)
        return Blocks(128, 128, 32 if narrow else 64, 1, 8, 3)
    height = max(16, triton.next_power_of_2(m))
    width = 64 if height <= 32 else 128
    split = 1
    while split < 16 and triton.cdiv(n, width) * split < programs and k // (split * 2) >= 512:
        split *= 2
    return Blocks(height, width, 64 if zero else 128, split, 4, 3)  # zero points of 128 columns spill on sm_90


def linear(x: Tensor, weight: Tensor | LinearWeight, out_dtype: torch.dtype) -> Tensor:
    """``x @ weight.T + bias``."""
    bias = weight.bias if isinstance(weight, LinearWeight) else None
    source = weight.source if isinstance(weight, LinearWeight) else weight
    assert source is not None
    x, operand = rows(x), operand_of(source)
    (m, k), n = x.shape, weight.shape[0]
    out = torch.empty((m, n), dtype=out_dtype, device=x.device)
    if m == 0:
        return out
    programs, device, zero = _programs(x.device), device_info(x.device), operand.zero is not None
    b = blocks_of((m, n, k), programs, device, x.element_size(), operand.code, zero=zero)
    parts = torch.empty((b.split, m, n), dtype=torch.float32, device=x.device) if b.split > 1 else out
    whole = b.split == 1
    grid = (triton.cdiv(m, b.m) * triton.cdiv(n, b.n), b.split)
    linear_kernel[grid](
        x, operand.values, _or(operand.scale, x), _or(operand.zero, x), _or(operand.column, x), _or(bias, x), parts,
        m, n, k, x.stride(0), KIND=operand.kind, ZERO=zero, WORDS=operand.words,
        GROUP=operand.group, BLOCK_SCALE=operand.block_scale, COLUMN=operand.column is not None,
        BIAS=whole and bias is not None, SPLIT=b.split,
        BLOCK_M=b.m, BLOCK_N=b.n, BLOCK_K=b.k, UPCAST=_upcast(x), num_warps=b.warps, num_stages=b.stages,
    )  # fmt: skip
    if not whole:
        size = m * n
        add_parts_kernel[(triton.cdiv(size, 1024),)](
            parts, _or(bias, x), out, size, n, BIAS=bias is not None, SPLIT=b.split, BLOCK=1024, num_warps=4
        )
    return out


def mlp(x: Tensor, weight: MlpWeight) -> Tensor:
    """The gated MLP; what is between its products is fp32 until the second reads it in x's type."""
    gate, up = linear(x, weight.gate_up, torch.float32).chunk(2, -1)
    return linear((F.silu(gate) * up).to(x.dtype), weight.down, x.dtype)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


def _upcast(x: Tensor) -> bool:
    """The interpreter's products are wrong in bf16."""
    return interpreting() and x.dtype == torch.bfloat16


def _programs(device: torch.device) -> int:
    """Programs that fill the device once."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
