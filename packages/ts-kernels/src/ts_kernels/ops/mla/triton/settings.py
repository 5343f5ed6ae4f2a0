"""Launch settings of decode and prefill: what compiles without spills and fits shared memory, by architecture."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from ....platform import DeviceInfo, interpreting


@dataclass(frozen=True)
class Launch:
    """Rows (queries x heads) and keys of a tile, warps, and stages of the pipeline."""

    rows: int
    tile: int
    warps: int
    stages: int


def dot_type(dtype: torch.dtype) -> tl.dtype:
    """The format in which products multiply; the interpreter's are wrong in bf16."""
    return tl.float32 if interpreting() or dtype == torch.float32 else tl.bfloat16


def launch_for(device: DeviceInfo, rows: int, dtype: torch.dtype, cache: torch.dtype, latent: int) -> Launch:
    """The settings for ``rows`` queries x heads of a row."""
    wanted = max(triton.next_power_of_2(rows), 16)
    if device.type != "cuda":
        return Launch(min(wanted, 16), 16, 4, 1)
    if dtype == torch.float32 or latent > 512:
        return Launch(16, 16, 4, 1)
    fp8 = cache == torch.float8_e4m3fn
    # 64 KB of shared memory on gfx942, 99 on sm_120, where sm_90 and sm_100 have 227.
    if not device.products_from_shared:  # FP8 in four warps spills 60 bytes a thread on sm_120
        return Launch(16, 32, 8 if fp8 and device.vendor == "nvidia" else 4, 2)
    if wanted == 16:
        return Launch(16, 64, 8 if fp8 else 4, 3)
    if wanted == 32:
        return Launch(32, 32 if fp8 else 64, 8, 3)
    return Launch(64, 32, 8, 3)


def prefill_launch(device: DeviceInfo, dtype: torch.dtype) -> Launch:
    """The settings for queries and expanded keys, one head a program."""
    if device.type != "cuda" or dtype == torch.float32:
        return Launch(16, 16, 4, 1)
    if device.vendor == "amd":
        return Launch(64, 32, 4, 1)
    return Launch(128, 64, 8, 3) if device.products_from_shared else Launch(64, 32, 4, 2)
