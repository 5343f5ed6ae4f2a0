"""What the native wrappers share: dtype codes of the extension, and rows it can read."""

from typing import Final

import torch
from torch import Tensor

CODE: Final = {torch.float32: 0, torch.bfloat16: 1}
CACHE_CODE: Final = {**CODE, torch.float8_e4m3fn: 2}


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new tensor for a kernel to write, in this machine's memory whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def rows(x: Tensor) -> Tensor:
    """``x`` if its last dimension is contiguous, else a copy whose is."""
    return x if x.stride(-1) == 1 else x.contiguous()


def matrix(x: Tensor) -> Tensor:
    """``x`` [N, K] if its rows are contiguous and lie apart, else a copy: a broadcast row is one row's memory."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.clone(memory_format=torch.contiguous_format)


def scale_of(cache_scale: Tensor | None) -> float:
    """The factor of an FP8 cache's numbers, on the host; 1 where there is none."""
    return 1.0 if cache_scale is None else float(cache_scale)


def dense_heads(x: Tensor) -> Tensor:
    """Heads of a token must lie side by side; tokens may be spaced."""
    _, head_stride, column_stride = x.stride()
    return x if column_stride == 1 and head_stride == x.shape[2] else x.contiguous()
