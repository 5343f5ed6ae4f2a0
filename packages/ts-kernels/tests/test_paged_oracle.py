"""Paged attention against implementations by others: torch's fused attention, and the eager attention of transformers'
GPT-OSS (sinks, window), Gemma 2 (soft cap, window) and Qwen 3."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.qwen3 import modeling_qwen3
from ts_kernels import attention, override
from ts_kernels.cases.attention import PagedBatch, paged_batch
from ts_kernels.cases.common import Maker

Close = Callable[..., None]
LENGTHS, COUNTS = [40, 9, 1, 77], [7, 9, 1, 3]  # the queries of row r are its last COUNTS[r] positions


@pytest.fixture(params=["reference", "native"], autouse=True)
def implementation(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Every implementation meets the oracles."""
    if request.param == "native":
        request.getfixturevalue("native")
    with override(request.param):
        yield request.param


def setup(heads: int, shared: int, widths: tuple[int, int]) -> tuple[PagedBatch, Tensor, Tensor]:
    make = Maker(torch.float32, 5, torch.device("cpu"))
    batch = paged_batch(LENGTHS, shared, widths, 16, make, torch.float32)
    return batch, make(sum(COUNTS), heads, widths[0]), torch.tensor([0, *COUNTS]).cumsum(0).int()


def rows_of(q: Tensor, batch: PagedBatch) -> list[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Each row's place, then its queries, keys and values [1, heads, tokens, width], and how far keys lie behind."""
    found, start = [], 0
    for length, count, keys, values in zip(LENGTHS, COUNTS, batch.keys, batch.values, strict=True):
        mine = slice(start, start := start + count)
        behind = torch.arange(length - count, length)[:, None] - torch.arange(length)
        found.append((mine, *(t.transpose(0, 1)[None] for t in (q[mine], keys, values)), behind))
    return found


def ours(q: Tensor, batch: PagedBatch, cu_q: Tensor, scale: float, **options: object) -> tuple[Tensor, Tensor]:
    caches = (batch.k_cache, batch.v_cache)
    result = attention.prefill(q, *caches, cu_q, batch.tables, batch.lengths, scale, return_lse=True, **options)
    assert isinstance(result, tuple)
    # A row at a time, so that decode meets the oracle too.
    for row, count in enumerate(COUNTS):
        if count <= 8:
            one, mine = slice(row, row + 1), slice(int(cu_q[row]), int(cu_q[row + 1]))
            last = attention.decode(q[mine], *caches, batch.tables[one], batch.lengths[one], scale, **options)
            torch.testing.assert_close(last, result[0][mine])
    return result


def hidden(behind: Tensor, window: int | None) -> Tensor:
    """What is added to scores: 0 where a key is seen."""
    seen = (behind >= 0) & (behind < (window or 10**6))
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None]


@pytest.mark.parametrize(("heads", "shared", "widths"), [(8, 2, (32, 32)), (6, 1, (24, 40)), (3, 3, (17, 5))])
@pytest.mark.parametrize("window", [None, 1, 13, 100])
def test_torch(assert_close: Close, heads: int, shared: int, widths: tuple[int, int], window: int | None) -> None:
    batch, q, cu_q = setup(heads, shared, widths)
    have, lse = ours(q, batch, cu_q, 0.2, window=window)
    for mine, queries, keys, values, behind in rows_of(q, batch):
        k, v = (x.repeat_interleave(heads // shared, 1) for x in (keys, values))
        mask = hidden(behind, window)
        want = F.scaled_dot_product_attention(queries, k, v, attn_mask=mask, scale=0.2)
        assert_close(have[mine], want[0].transpose(0, 1).flatten(1))
        scores = queries @ k.transpose(2, 3) * 0.2 + mask
        assert_close(lse[mine], scores.logsumexp(-1)[0].t())


@pytest.mark.parametrize("window", [None, 13])
def test_gpt_oss(assert_close: Close, window: int | None) -> None:
    batch, q, cu_q = setup(8, 2, (32, 32))
    sinks = torch.randn(8) * 2
    module = SimpleNamespace(num_key_value_groups=4, training=False, sinks=sinks)
    have, _ = ours(q, batch, cu_q, 0.3, window=window, sinks=sinks)
    for mine, *tensors, behind in rows_of(q, batch):
        mask = hidden(behind, window)
        want, _ = modeling_gpt_oss.eager_attention_forward(module, *tensors, mask, scaling=0.3, dropout=0.0)
        assert_close(have[mine], want[0].flatten(1))


@pytest.mark.parametrize("window", [None, 13])
def test_gemma_2(assert_close: Close, window: int | None) -> None:
    batch, q, cu_q = setup(8, 4, (32, 32))
    module = SimpleNamespace(num_key_value_groups=2, training=False, head_dim=32)
    have, _ = ours(q, batch, cu_q, 0.9, window=window, soft_cap=5.0)
    for mine, *tensors, behind in rows_of(q, batch):
        mask = hidden(behind, window)
        want, _ = modeling_gemma2.eager_attention_forward(module, *tensors, mask, scaling=0.9, softcap=5.0)
        assert_close(have[mine], want[0].flatten(1))


def test_qwen_3(assert_close: Close) -> None:
    batch, q, cu_q = setup(8, 2, (32, 32))
    module = SimpleNamespace(num_key_value_groups=4, training=False)
    have, _ = ours(q, batch, cu_q, 32**-0.5)
    for mine, *tensors, behind in rows_of(q, batch):
        want, _ = modeling_qwen3.eager_attention_forward(module, *tensors, hidden(behind, None), scaling=32**-0.5)
        assert_close(have[mine], want[0].flatten(1))
