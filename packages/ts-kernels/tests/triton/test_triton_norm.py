"""Norms in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from ts_kernels import norm

Close = Callable[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (3, 100), (5, 257)])
def test_rms_norm(device: torch.device, close: Close, dtype: torch.dtype, rows: int, width: int) -> None:
    x, weight = torch.randn(rows, width + 7, device=device)[:, 3:-4].to(dtype), torch.randn(width, device=device)
    want = norm.rms_norm(x, weight, 1e-5, impl="reference")
    close(norm.rms_norm(x, weight, 1e-5, impl="triton"), want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            close(norm.rms_norm(x, weight * 1.1, 1e-5, impl="triton"), want)
