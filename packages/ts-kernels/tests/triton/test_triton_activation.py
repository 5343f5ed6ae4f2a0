"""Activations in Triton against the reference."""

from collections.abc import Callable

import pytest
import torch
from ts_kernels import activation

Close = Callable[..., None]
CALLS = {
    "silu_mul": activation.silu_mul,
    "swiglu_clamped": lambda x, impl: activation.swiglu_clamped(x, limit=1.5, impl=impl),
    "swiglu_interleaved": lambda x, impl: activation.swiglu_clamped(x, limit=1.5, interleaved=True, impl=impl),
    "swiglu_unlimited": lambda x, impl: activation.swiglu_clamped(x, limit=float("inf"), impl=impl),
    "gelu_mul": activation.gelu_mul,
    "gelu_mul_tanh": lambda x, impl: activation.gelu_mul(x, tanh=True, impl=impl),
    "gelu": activation.gelu,
    "gelu_tanh": lambda x, impl: activation.gelu(x, tanh=True, impl=impl),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 2), (3, 100), (2, 2070)])
def test_activation(
    device: torch.device, assert_close: Close, name: str, dtype: torch.dtype, rows: int, width: int
) -> None:
    x = torch.full((rows, width + 5), torch.nan, device=device, dtype=dtype)[:, 2:-3]
    x.copy_(3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0)))
    want = CALLS[name](x, impl="reference")
    assert_close(CALLS[name](x, impl="triton"), want)
    if rows * width > 2:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(CALLS[name](x * 1.1, impl="triton"), want)


@pytest.mark.filterwarnings("ignore:.*encountered")  # the interpreter's arithmetic is numpy's
@pytest.mark.parametrize("name", [name for name in CALLS if "swiglu" not in name])
def test_gates_at_the_ends_of_the_line(device: torch.device, name: str) -> None:
    inf, nan = float("inf"), float("nan")
    gate = torch.tensor([[-inf, -3e38, -300.0, -90.0, -5.0, 0.0, 90.0, 3e38, inf, nan]], device=device)
    gate_up = torch.cat((gate, torch.ones_like(gate)), 1)
    have, want = (CALLS[name](gate_up, impl=impl) for impl in ("triton", "reference"))
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5, equal_nan=True)
