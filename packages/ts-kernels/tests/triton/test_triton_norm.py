"""Norms in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from ts_kernels import norm

Close = Callable[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (3, 100), (5, 257)])
def test_rms_norm(device: torch.device, assert_close: Close, dtype: torch.dtype, rows: int, width: int) -> None:
    x, weight = torch.randn(rows, width + 7, device=device)[:, 3:-4].to(dtype), torch.randn(width, device=device)
    want = norm.rms_norm(x, weight, 1e-5, impl="reference")
    assert_close(norm.rms_norm(x, weight, 1e-5, impl="triton"), want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(norm.rms_norm(x, weight * 1.1, 1e-5, impl="triton"), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (3, 100), (5, 257)])
def test_add_rms_norm(device: torch.device, assert_close: Close, dtype: torch.dtype, rows: int, width: int) -> None:
    x, start = torch.randn(rows, width + 7, device=device)[:, 3:-4].to(dtype), torch.randn(rows, width, device=device)
    weight, residual, want_residual = torch.randn(width, device=device), start.to(dtype), start.to(dtype, copy=True)
    norm.add_rms_norm(x, want_residual, weight, 1e-5, impl="reference")
    have, given_back = norm.add_rms_norm(x, residual, weight, 1e-5, impl="triton")
    assert given_back is residual
    assert_close(residual, want_residual)  # the interpreter cuts bf16 off instead of rounding
    want = norm.rms_norm(residual, weight, 1e-5, impl="reference")
    assert_close(have, want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(norm.add_rms_norm(0 * x, residual, weight * 1.1, 1e-5, impl="triton")[0], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (2, 5), (3, 100), (5, 257)])
def test_layer_norm(device: torch.device, assert_close: Close, dtype: torch.dtype, rows: int, width: int) -> None:
    x = (torch.randn(rows, width + 7, device=device) + 30)[:, 3:-4].to(dtype)
    weight, bias = torch.randn(width, device=device), torch.randn(width, device=device)
    want = norm.layer_norm(x, weight, bias, 1e-5, impl="reference")
    assert_close(norm.layer_norm(x, weight, bias, 1e-5, impl="triton"), want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(norm.layer_norm(x, weight, bias + 0.2, 1e-5, impl="triton"), want)
