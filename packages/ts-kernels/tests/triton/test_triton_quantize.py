"""Activations to FP8 in Triton against the reference, to the bit."""

import pytest
import torch
from ts_kernels import ContractError, quantize


@pytest.mark.parametrize("name", ["fp8_per_token", "fp8_per_group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(0, 8), (1, 1), (3, 100), (5, 1200)])
def test_fp8(device: torch.device, name: str, dtype: torch.dtype, rows: int, width: int) -> None:
    run = getattr(quantize, name)
    x = (torch.randn(rows, width + 7, device=device) * torch.logspace(-6, 2, width + 7, device=device))[:, 3:-4]
    x = x.to(dtype)
    if rows > 1:
        x[1] = 0
    (values, scale), (want, want_scale) = run(x, impl="triton"), run(x, impl="reference")
    assert values.shape == (rows, width)
    assert torch.equal(scale, want_scale)
    assert torch.equal(values.float(), want.float())
    if rows > 1:
        groups = torch.repeat_interleave(scale, 128, 1)[:, :width] if name == "fp8_per_group" else scale
        assert ((values.float() * groups - x.float()).abs() <= groups * 16.01).all()  # half a step at the top
        assert values[0].float().abs().max() == 448
        assert not values[1].float().any()


def test_every_code_comes_back(device: torch.device) -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    codes = codes[(codes & 0x7F) != 0x7F]
    x = codes.view(torch.float8_e4m3fn).float()[None]
    values, scale = quantize.fp8_per_token(x, impl="triton")
    assert scale.item() == 1
    assert torch.equal(values.view(torch.uint8)[0], codes)


def test_wrong_rows_are_refused() -> None:
    wrong = ((torch.ones(8), r"x must be \[T, D\]"), (torch.ones(2, 8).half(), "x must be .*float32"))
    for x, message in wrong:
        with pytest.raises(ContractError, match=message):
            quantize.fp8_per_token(x)


@pytest.mark.filterwarnings("ignore:.*encountered")  # the interpreter's arithmetic is numpy's
@pytest.mark.parametrize("name", ["fp8_per_token", "fp8_per_group"])
def test_fp8_of_numbers_that_are_not_finite(device: torch.device, name: str) -> None:
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(1)).to(device)
    x[1, 3], x[2, 200], x[3, 5] = torch.inf, torch.nan, -torch.inf
    have, want = (getattr(quantize, name)(x, impl=impl) for impl in ("triton", "reference"))
    for mine, theirs in zip(have, want, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0, atol=0, equal_nan=True)
