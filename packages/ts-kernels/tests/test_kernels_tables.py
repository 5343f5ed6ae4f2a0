"""Page tables of any width and step: what a row may read ends at the table's width, whatever lies behind it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, attention, mla, override

PAGE, PAGES = 4, 6
KV_B = mla.prepare_kv_b(torch.randn(2 * (8 + 12), 32), 2, 8, 12, keep_source=True)
Call = Callable[[Tensor, Tensor], Tensor]
CU_Q = torch.tensor([0, 3, 4], dtype=torch.int32)


def latents() -> Tensor:
    return torch.randn(PAGES, PAGE, 40, generator=torch.Generator().manual_seed(1))


def heads() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(PAGES, PAGE, 1, 16, generator=generator), torch.randn(PAGES, PAGE, 1, 24, generator=generator)


def queries(tokens: int, *sizes: int) -> Tensor:
    return torch.randn(tokens, *sizes, generator=torch.Generator().manual_seed(3))


def absorbed(tables: Tensor, lengths: Tensor) -> Tensor:
    return mla.decode_absorbed(queries(2, 2, 32), queries(2, 2, 8), latents(), tables, lengths, 0.2)


CALLS: dict[str, Call] = {
    "mla.decode": lambda t, n: mla.decode(queries(2, 2, 16), latents(), KV_B, t, n, 0.2),
    "mla.decode_absorbed": absorbed,
    "mla.prefill": lambda t, n: mla.prefill(queries(4, 2, 16), latents(), KV_B, CU_Q, t, n, 0.2),
    "attention.decode": lambda t, n: attention.decode(queries(2, 3, 16), *heads(), t, n, 0.2),
    "attention.prefill": lambda t, n: attention.prefill(queries(4, 3, 16), *heads(), CU_Q, t, n, 0.2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_pages_behind_a_table_are_not_a_rows(native: None, call: Call) -> None:
    wide = torch.tensor([[3, 1, 0], [5, 2, 4]], dtype=torch.int32)
    lengths = torch.tensor([7, 8], dtype=torch.int32)
    wanted = call(wide[:, :2].clone(), lengths)
    for _ in range(2):  # once through the checks, once by the shortcut that the first call left
        torch.testing.assert_close(call(wide[:, :2], lengths), wanted, rtol=0, atol=0)
        with pytest.raises(ContractError, match=r"seq_lens must be from .* room for"):
            call(wide[:, :1], lengths)
        with pytest.raises(ContractError, match=r"seq_lens must be from .* room for"):
            call(wide[:, :0], lengths)
        with pytest.raises(ContractError, match=r"seq_lens must be from .* room for"):
            call(torch.empty(2, 0, dtype=torch.int32), torch.ones(2, dtype=torch.int32) * 3)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_rows_may_share_a_line_of_the_table(native: None, call: Call) -> None:
    lengths = torch.tensor([7, 8], dtype=torch.int32)
    shared = torch.tensor([[3, 1]], dtype=torch.int32).expand(2, 2)
    with override("reference"):
        wanted = call(shared, lengths)
    for _ in range(2):
        torch.testing.assert_close(call(shared, lengths), wanted, rtol=2e-5, atol=2e-5)


# Every query of mla.prefill sees its own key.
@pytest.mark.parametrize("call", [call for name, call in CALLS.items() if name != "mla.prefill"])
def test_a_table_without_columns_serves_rows_without_keys(native: None, call: Call) -> None:
    for _ in range(2):
        assert call(torch.empty(2, 0, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)).eq(0).all()
