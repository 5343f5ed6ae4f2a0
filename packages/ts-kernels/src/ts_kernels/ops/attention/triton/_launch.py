"""How paged attention is launched: tile sizes by the sizes of a model, and the arguments that its kernels share."""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....platform import DeviceInfo, device_info, interpreting
from ..options import Options

_LOG2E = 1.4426950408889634
_DOT = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Launch:
    """``rows`` of a request that share a head of the cache (0 where only the device knows), and the tiles."""

    rows: int
    block_m: int
    block_n: int
    warps: int
    stages: int


def launch_for(q: Tensor, k_cache: Tensor, v_cache: Tensor, queries: int | None) -> Launch:
    """Tiles for decode of ``queries`` a row, or for prefill (None)."""
    rows = (queries or 0) * (q.shape[1] // k_cache.shape[2])
    widest = max(q.shape[2], v_cache.shape[3])
    return tiles(rows, widest, q.element_size(), prefill=queries is None, device=device_info(q.device))


def tiles(rows: int, widest: int, size: int, *, prefill: bool, device: DeviceInfo) -> Launch:
    """Tiles by compiling (spills, shared memory), not by timing: none of this has run on a GPU."""
    shape = _tiles(rows, widest, size, prefill=prefill, device=device)
    width = triton.next_power_of_2(widest)
    # Queries and weights that pass through shared memory; on AMD 16-bit ones stay in registers.
    beside = shape.block_m * (shape.block_n + width) * size
    loads = 2 * shape.block_n * width * size
    return replace(
        shape, stages=device.stages(shape.stages, loads, 0 if device.vendor == "amd" and size == 2 else beside)
    )


def _tiles(rows: int, widest: int, size: int, *, prefill: bool, device: DeviceInfo) -> Launch:
    amd = device.vendor == "amd"
    if size == 4:  # no tensor cores: registers alone hold the operands
        # two stages of 256 columns spill 148 bytes a thread on gfx950
        return Launch(rows, 32, 32, 8, 1) if prefill else Launch(rows, 16, 32, 8, 1 if amd and widest > 128 else 2)
    if prefill and amd and widest > 128:
        return Launch(rows, 64, 32, 8, 1)
    if prefill and widest > 128:
        return Launch(rows, 64, 32, 8, 2)
    if prefill:  # 64 keys at a time spill on gfx942 and, 100 bytes a thread, on sm_120
        return Launch(rows, 128, 64 if widest <= 64 or device.products_from_shared else 32, 8, 2)
    block_m = min(max(triton.next_power_of_2(rows), 16), 64)
    return Launch(rows, block_m, 32, 4, 3) if widest > 128 else Launch(rows, block_m, 64, 4, 3)


def shared_arguments(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    sinks: Tensor | None,
    options: Options,
    shape: Launch,
) -> tuple[tuple[object, ...], dict[str, object]]:
    """(strides and scalars in the kernels' order, compile-time values and launch settings)."""
    scale = options.scale * options.k_scale * _LOG2E
    if options.soft_cap:  # twice the argument of tanh
        scale *= 2.0 / options.soft_cap
    arguments = (
        q.stride(0),
        block_tables.stride(0),
        k_cache.stride(0),
        v_cache.stride(0),
        scale,
        options.soft_cap * _LOG2E,
        options.v_scale,
        options.window,
    )
    _, page_size, shared, width = k_cache.shape
    # The interpreter multiplies the bits of bf16 operands.
    dot = torch.float32 if interpreting() and q.dtype == torch.bfloat16 else q.dtype
    constants = {
        "GROUP": q.shape[1] // shared,
        "H_KV": shared,
        "D": width,
        "V": v_cache.shape[3],
        "PAGE": page_size,
        "BLOCK_M": shape.block_m,
        "BLOCK_N": shape.block_n,
        "BLOCK_D": max(triton.next_power_of_2(width), 16),
        "BLOCK_V": max(triton.next_power_of_2(v_cache.shape[3]), 16),
        "WINDOW": options.window > 0,
        "CAPPED": options.soft_cap > 0.0,
        "SINKS": sinks is not None,
        "DOT": _DOT[dot],
        "num_warps": shape.warps,
        "num_stages": shape.stages,
    }
    return arguments, constants
