"""Native paged attention (csrc/ops/attention_paged_*.cpp, merge.cpp).

Arguments have passed the public functions' checks.
"""

import torch
from torch import Tensor

from ... import _native
from .._tensors import CACHE_CODE, CODE, dense_heads, empty, rows
from .options import Options

PART_CODE = {**CODE, torch.float16: 2}


def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """A few queries a row."""
    return _attend(q, k_cache, v_cache, None, block_tables, seq_lens, sinks, options)


def prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Causal attention of several rows."""
    return _attend(q, k_cache, v_cache, cu_q.contiguous(), block_tables, seq_lens, sinks, options)


def _attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor | None,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    q, block_tables, seq_lens = dense_heads(q), rows(block_tables), seq_lens.contiguous()
    sinks = None if sinks is None else sinks.contiguous()
    (tokens, heads, width), (pages, page_size, shared, v) = q.shape, v_cache.shape
    out = empty((tokens, heads * v), q.dtype)
    lse = empty((tokens, heads), torch.float32)
    _native.attend_paged(
        q.data_ptr(),
        q.stride(0),
        tokens,
        seq_lens.shape[0],
        0 if cu_q is None else cu_q.data_ptr(),
        CODE[q.dtype],
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        CACHE_CODE[k_cache.dtype],
        k_cache.stride(0),
        v_cache.stride(0),
        pages,
        page_size,
        heads,
        shared,
        width,
        v,
        block_tables.data_ptr(),
        block_tables.stride(0),
        block_tables.shape[1],
        seq_lens.data_ptr(),
        0 if sinks is None else sinks.data_ptr(),
        options.scale * options.k_scale,
        options.soft_cap,
        options.v_scale,
        options.window,
        out.data_ptr(),
        lse.data_ptr(),
    )
    return out, lse


def merge(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Weighs each part by its share of the softmax's denominator."""
    outs, lses = rows(outs), rows(lses)
    parts, tokens, heads = lses.shape
    out = empty(outs.shape[1:], outs.dtype)
    lse = empty((tokens, heads), torch.float32)
    _native.merge(
        outs.data_ptr(),
        outs.stride(0),
        outs.stride(1),
        PART_CODE[outs.dtype],
        lses.data_ptr(),
        lses.stride(0),
        lses.stride(1),
        parts,
        tokens,
        heads,
        outs.shape[2] // heads,
        out.data_ptr(),
        lse.data_ptr(),
    )
    return out, lse


# Shortcuts that take the public arguments; see Operation.direct.
direct_decode = _native.direct_attend_few
direct_merge = _native.direct_merge
