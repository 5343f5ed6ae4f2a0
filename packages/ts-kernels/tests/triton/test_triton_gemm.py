"""Matrix products in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import gemm, quantize

Close = Callable[..., None]
FORMATS: dict[str, Callable[[Tensor], gemm.Source]] = {
    "float32": lambda w: w,
    "bfloat16": lambda w: w.bfloat16(),
    "int4": quantize.quantize_int4,
    "int4 of 128, zero points": lambda w: quantize.quantize_int4(w, 128, zero_point=True),
    "int4 by row, zero points": lambda w: quantize.quantize_int4(w, None, zero_point=True, scale_dtype=torch.float32),
    "int8": quantize.quantize_int8,
    "int8 of 64": lambda w: quantize.quantize_int8(w, 64),
    "fp8 block": quantize.quantize_fp8_block,
    "fp8 channel": quantize.quantize_fp8_channel,
    "mxfp4": quantize.quantize_mxfp4,
    "nvfp4": quantize.quantize_nvfp4,
}


def weight_of(name: str, n: int, k: int, device: torch.device) -> gemm.LinearWeight:
    matrix = torch.randn(n, k, generator=torch.Generator().manual_seed(n)).to(device)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(k)).to(device)
    return gemm.prepare(FORMATS[name](matrix), bias=bias, keep_source=True)


@pytest.mark.parametrize("rows", [0, 1, 7, 70])
@pytest.mark.parametrize("name", FORMATS)
def test_linear(device: torch.device, assert_close: Close, name: str, rows: int) -> None:
    weight = weight_of(name, 83, 384, device)
    x = torch.randn(rows, 400, device=device)[:, 8:-8]
    want = gemm.linear(x, weight, impl="reference")
    assert_close(gemm.linear(x, weight, impl="triton"), want)
    if rows:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(gemm.linear(x.roll(1, 1), weight, impl="triton"), want)


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("name", FORMATS)
def test_linear_of_bf16(device: torch.device, assert_close: Close, name: str, rows: int) -> None:
    weight, x = weight_of(name, 40, 256, device), torch.randn(rows, 256, device=device).bfloat16()
    for out in (torch.bfloat16, torch.float32):
        want = gemm.linear(x, weight, out_dtype=out, impl="reference")
        assert_close(gemm.linear(x, weight, out_dtype=out, impl="triton"), want, torch.bfloat16)


@pytest.mark.parametrize("name", ["bfloat16", "int4", "fp8 block"])
def test_parts_of_k_add_up(device: torch.device, assert_close: Close, name: str) -> None:
    weight, x = weight_of(name, 20, 2048, device), torch.randn(3, 2048, device=device)
    assert_close(gemm.linear(x, weight, impl="triton"), gemm.linear(x, weight, impl="reference"))


def test_mlp(device: torch.device, assert_close: Close) -> None:
    gate_up, down = weight_of("mxfp4", 2 * 96, 64, device), weight_of("mxfp4", 64, 96, device)
    mlp, x = gemm.prepare_mlp(gate_up, down), torch.randn(5, 64, device=device)
    assert_close(gemm.mlp(x, mlp, impl="triton"), gemm.mlp(x, mlp, impl="reference"))


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize(("tokens", "width"), [(0, 8), (1, 1), (5, 100), (3, 2600)])
def test_gather_rows(device: torch.device, tokens: int, width: int, ids: torch.dtype) -> None:
    table = torch.randn(9, width, device=device)
    chosen = torch.randint(9, (tokens,), generator=torch.Generator().manual_seed(tokens)).to(device, ids)
    assert torch.equal(gemm.gather_rows(table, chosen, impl="triton"), table[chosen.long()])
