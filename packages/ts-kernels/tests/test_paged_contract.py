"""Wrong arguments of paged attention and its cache writes; empty batches; what debug mode reads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import ContractError, attention, kv_cache


def f32(*shape: int) -> Tensor:
    return torch.zeros(shape)


def i32(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def i64(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


CASES: list[tuple[Callable[..., object], dict[str, Any], dict[str, Any], str]] = []


def wrong(call: Callable[..., object], good: dict[str, Any], *changes: tuple[str, Any, str]) -> None:
    CASES.extend((call, good, {name: value}, message) for name, value, message in changes)


SHARED: dict[str, Any] = {
    "q": f32(4, 6, 8), "k_cache": f32(5, 16, 2, 8), "v_cache": f32(5, 16, 2, 12), "block_tables": i32(2, 3),
    "seq_lens": i32(2), "scale": 1.0,
}  # fmt: skip
COMMON: list[tuple[str, Any, str]] = [
    ("q", f32(4, 48), r"q must be \[T, H, D\]"),
    ("q", f32(4, 6, 8).double(), "q must be bfloat16 or float16 or float32"),
    ("q", f32(4, 5, 8), "q must be of a multiple of 2 heads, those of the cache"),
    ("q", f32(4, 0, 8), "q must be of a multiple of 2 heads"),
    ("q", f32(4, 6, 9), r"k_cache must be \[pages, page_size, H_kv, 9\]"),
    ("q", torch.zeros(4, 6, 8, device="meta"), "k_cache must be on meta"),
    ("k_cache", f32(5, 32, 8), r"k_cache must be \[pages, page_size, H_kv, D\]"),
    ("k_cache", f32(5, 16, 2, 8).int(), "k_cache must be bfloat16 or float16 or float32 or float8_e4m3fn"),
    ("k_cache", f32(5, 2, 16, 8).transpose(1, 2), "k_cache must be contiguous within each page"),
    ("k_cache", f32(4, 16, 2, 8), r"v_cache must be \[4, 16, 2, V\]"),
    ("v_cache", f32(5, 16, 3, 12), r"v_cache must be \[5, 16, 2, V\]"),
    ("v_cache", f32(5, 16, 2, 12).half(), "v_cache must be float32"),
    ("v_cache", f32(5, 16, 2, 0), "v_cache must be of at least one key a page, one head and one column"),
    ("block_tables", i64(2, 3), "block_tables must be int32"),
    ("block_tables", i32(3, 3), r"block_tables must be \[2, max_pages\]"),
    ("seq_lens", i64(2), "seq_lens must be int32"),
    ("seq_lens", i32(2, 1), r"seq_lens must be \[B\]"),
    ("scale", float("nan"), "scale must be finite"),
    ("window", -1, "window must be None or the number of keys"),
    ("sinks", f32(5), r"sinks must be \[6\]"),
    ("sinks", f32(6).bfloat16(), "sinks must be float32"),
    ("soft_cap", -3.0, "soft_cap must be None or a positive number"),
    ("soft_cap", float("inf"), "soft_cap must be None or a positive number"),
    ("k_scale", 0.0, "k_scale must be positive and finite"),
    ("v_scale", float("nan"), "v_scale must be positive and finite"),
]
wrong(
    attention.decode,
    SHARED,
    *COMMON,
    *((("q", f32(tokens, 6, 8), "q must be of 1 to 8 tokens for each of the 2 rows")) for tokens in (0, 5, 18)),
)
wrong(
    attention.prefill,
    {**SHARED, "cu_q": i32(3)},
    *COMMON,
    ("cu_q", i32(4), r"cu_q must be \[3\]"),
    ("cu_q", i64(3), "cu_q must be int32"),
)
wrong(
    attention.merge,
    {"outs": f32(3, 2, 12), "lses": f32(3, 2, 4)},
    ("outs", f32(3, 2, 13), "outs must be as wide as a multiple of the 4 heads"),
    ("outs", f32(2, 2, 12), r"outs must be \[3, 2, H\*V\]"),
    ("lses", f32(3, 2), r"lses must be \[P, T, H\]"),
    ("lses", f32(3, 2, 4).half(), "lses must be float32"),
    ("lses", f32(0, 2, 4), "lses must be of at least one part and one head"),
)
wrong(
    kv_cache.write_kv,
    {"k": f32(3, 2, 8), "v": f32(3, 2, 12), "slot_mapping": i64(3) - 1, "k_cache": f32(5, 16, 2, 8),
     "v_cache": f32(5, 16, 2, 12)},
    ("k", f32(3, 3, 8), r"k must be \[T, 2, 8\]"),
    ("k", f32(3, 2, 8).half(), "v must be float16"),
    ("v", f32(4, 2, 12), r"v must be \[3, 2, 12\]"),
    ("slot_mapping", i32(3), "slot_mapping must be int64"),
    ("slot_mapping", i64(2), r"slot_mapping must be \[3\]"),
    ("k_cache", f32(5, 2, 16, 8).transpose(1, 2), "k_cache must be contiguous within each page"),
    ("v_cache", f32(5, 16, 2, 12).half(), "v_cache must be float32"),
    ("k_scale", -1.0, "k_scale must be positive and finite"),
    ("v_scale", float("inf"), "v_scale must be positive and finite"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "good", "change", "message"), CASES)
def test_wrong_argument(
    call: Callable[..., object], good: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    name = next(iter(change))
    call(**(good if name != "cu_q" and "cu_q" not in good else {**good, "cu_q": torch.tensor([0, 0, 4]).int()}))
    with pytest.raises(ContractError, match=message):
        call(**{**good, **change})


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_empty_batches(impl: str, request: pytest.FixtureRequest) -> None:
    if impl == "native":
        request.getfixturevalue("native")
    q, k, v = f32(0, 6, 8), f32(5, 16, 2, 8), f32(5, 16, 2, 12)
    out, lse = attention.decode(q, k, v, i32(0, 3), i32(0), 1.0, return_lse=True, impl=impl)
    assert (out.shape, lse.shape) == ((0, 72), (0, 6))
    assert attention.prefill(q, k, v, i32(1), i32(0, 3), i32(0), 1.0, impl=impl).shape == (0, 72)
    assert attention.prefill(q, k, v, i32(3), i32(2, 3), i32(2) + 7, 1.0, impl=impl).shape == (0, 72)
    assert attention.decode(f32(2, 6, 8), k[:0], v[:0], i32(2, 0), i32(2), 1.0, impl=impl).eq(0).all()
    assert attention.merge(f32(3, 0, 72), f32(3, 0, 6))[0].shape == (0, 72)
    kv_cache.write_kv(f32(0, 2, 8), f32(0, 2, 12), i64(0), k, v, impl=impl)


def test_native_kernels_refuse_what_they_would_follow(native: None) -> None:
    q, k, v, lengths = f32(1, 6, 8), f32(5, 16, 2, 8), f32(5, 16, 2, 12), i32(1) + 20

    def decode(tables: Tensor, lengths: Tensor) -> object:
        return attention.decode(q, k, v, tables, lengths, 1.0, impl="native")

    for page in (5, -1):
        message = rf"attention.decode: block_tables\[0\] must be in \[0, 5\), got {page}$"
        with pytest.raises(ContractError, match=message):
            decode(torch.tensor([[0, page]], dtype=torch.int32), lengths)
    with pytest.raises(ContractError, match=r"seq_lens must be from 0 to 16 .*, got 20$"):
        decode(i32(1, 1), lengths)
    with pytest.raises(ContractError, match=r"seq_lens must be from 0 to 32 .*, got -20$"):
        decode(i32(1, 2), -lengths)
    for spans, given in ([0, 0], r"\[0, 0\]"), ([1, 1], r"\[1, 1\]"):
        message = f"attention.prefill: cu_q must be from 0 to 1 without a fall, got {given}"
        with pytest.raises(ContractError, match=message):
            attention.prefill(q, k, v, torch.tensor(spans).int(), i32(1, 2), lengths, 1.0, impl="native")
    with pytest.raises(ContractError, match="got \\[0, 2, 1\\]"):
        attention.prefill(q, k, v, torch.tensor([0, 2, 1]).int(), i32(2, 2), i32(2), 1.0, impl="native")
    with pytest.raises(ContractError, match=r"kv_cache\.write_kv: slot_mapping must be below 80, got 80$"):
        kv_cache.write_kv(f32(1, 2, 8), f32(1, 2, 12), i64(1) + 80, k, v, impl="native")


def test_debug_mode_reads_values(debug: None) -> None:
    q, k, v = f32(1, 6, 8), f32(5, 16, 2, 8), f32(5, 16, 2, 12)
    tables, cu_q = torch.tensor([[-1, 5, 2]], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    with pytest.raises(ContractError, match=r"block_tables\[0\] must be in \[0, 5\), got values from -1 to 2"):
        attention.decode(q, k, v, tables[:, ::2], i32(1) + 17, 1.0)
    with pytest.raises(ContractError, match=r"block_tables\[0\] must be in \[0, 5\), got values from 2 to 5"):
        attention.prefill(q, k, v, cu_q, tables, i32(1) + 33, 1.0, window=2)
    attention.decode(q, k, v, tables, i32(1) + 33, 1.0, window=1)  # the first two pages are older than the window
    with pytest.raises(ContractError, match=r"seq_lens must be in \[0, 49\)"):
        attention.decode(q, k, v, tables, i32(1) + 49, 1.0)
    with pytest.raises(ContractError, match="slot_mapping must be below 80, got 80"):
        kv_cache.write_kv(f32(1, 2, 8), f32(1, 2, 12), i64(1) + 80, k, v)
