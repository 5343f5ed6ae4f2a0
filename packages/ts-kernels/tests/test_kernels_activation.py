"""Activations: native against the reference, and the reference against fp64 formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, activation

Close = Callable[..., None]
CALLS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "swiglu_clamped": lambda x, impl: activation.swiglu_clamped(x, limit=1.5, impl=impl),
    "swiglu_interleaved": lambda x, impl: activation.swiglu_clamped(x, limit=1.5, interleaved=True, impl=impl),
    "swiglu_unlimited": lambda x, impl: activation.swiglu_clamped(x, limit=math.inf, impl=impl),
    "gelu_mul": lambda x, impl: activation.gelu_mul(x, impl=impl),
    "gelu_mul_tanh": lambda x, impl: activation.gelu_mul(x, tanh=True, impl=impl),
    "gelu": lambda x, impl: activation.gelu(x, impl=impl),
    "gelu_tanh": lambda x, impl: activation.gelu(x, tanh=True, impl=impl),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (2, 0), (1, 2), (3, 100), (17, 126)])
def test_native(isa: str, assert_close: Close, name: str, dtype: torch.dtype, rows: int, width: int) -> None:
    x = torch.full((rows, width + 5), torch.nan, dtype=dtype)[:, 2:-3]
    x.copy_(3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0)))
    want = CALLS[name](x, "reference")
    assert_close(CALLS[name](x, "native"), want)
    if rows * width > 2:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(CALLS[name](x * 1.1, "native"), want)


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_formulas(native: None, impl: str) -> None:
    x = torch.linspace(-12, 12, 481)[None]
    exact = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0].double().tolist()]
    torch.testing.assert_close(activation.gelu(x, impl=impl)[0], torch.tensor(exact), atol=1e-6, rtol=1e-6)
    tanh = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x[0].double().tolist()]
    torch.testing.assert_close(activation.gelu(x, tanh=True, impl=impl)[0], torch.tensor(tanh), atol=1e-6, rtol=1e-6)
    gate, up = torch.tensor([[9.0, -9.0, 2.0]]), torch.tensor([[9.0, -9.0, 0.5]])
    want = [g / (1 + math.exp(-1.702 * g)) * (u + 1) for g, u in ((7.0, 7.0), (-9.0, -7.0), (2.0, 0.5))]
    have = activation.swiglu_clamped(torch.cat((gate, up), 1), impl=impl)
    torch.testing.assert_close(have[0], torch.tensor(want))


def test_extremes(isa: str) -> None:
    x = torch.tensor([[-1e4, -100.0, -0.0, 100.0, 1e4, torch.nan]])
    for tanh in (False, True):
        have = activation.gelu(x, tanh=tanh, impl="native")
        torch.testing.assert_close(have, torch.nn.functional.gelu(x), atol=1e-30, rtol=1e-6, equal_nan=True)
    both = torch.cat((x, torch.ones_like(x)), 1)
    have, want = (activation.swiglu_clamped(both, impl=impl) for impl in ("native", "reference"))
    torch.testing.assert_close(have, want, atol=1e-30, rtol=1e-6, equal_nan=True)


def test_wrong_limit() -> None:
    for limit in (0.0, -1.0, math.nan):
        with pytest.raises(ContractError, match="limit must be positive"):
            activation.swiglu_clamped(torch.zeros(1, 4), limit=limit)
