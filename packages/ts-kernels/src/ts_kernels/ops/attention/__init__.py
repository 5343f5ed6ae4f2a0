"""Attention of grouped or all heads over a paged cache (GQA, arXiv 2305.13245).

Legend: B rows, T tokens, H heads, H_kv heads of the cache (H is a multiple, by any factor), D key width, V value
width, P parts to merge.

The caches are k_cache [pages, page_size, H_kv, D] and v_cache [pages, page_size, H_kv, V], as ``kv_cache.write_kv``
fills them: a token's heads lie side by side, so that a token is written, copied between tiers and read by all heads as
one run of memory; keys and values are apart because their widths may differ. A page must be dense; the step from one
page to the next is free, so ``both[:, 0]`` and ``both[:, 1]`` of one [pages, 2, page_size, H_kv, D] tensor serve too.

A query at position p sees the keys up to p; with ``window`` the last ``window`` of them. Entries of the block table
past a row's length, or of pages wholly older than its window, are not read.
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ... import contract
from ...registry import at_most, multiple
from ...selection import Operation
from .. import _register
from .._public import public
from . import reference
from ._checks import CACHES, PAST_DECODE, QUERIES, check_pages, common, flags, reject, reject_merge
from .options import Options, checked

__all__ = ["Options", "decode", "merge", "prefill"]

_DTYPES, _DIMS = ("q", "cache"), ("H", "H_kv", "D", "V", "page_size", "window", "soft_cap", "sinks")
_PAGED: dict[str, Any] = {
    "dtypes": _DTYPES,
    "dims": _DIMS,
    "empty": ("window", "soft_cap", "sinks"),
    "limits": (multiple("H", "H_kv"), at_most("soft_cap", 1), at_most("sinks", 1)),  # the last two say whether
}
_DECODE = Operation("attention.decode", **_PAGED, summary="a few last queries a row, paged GQA")
_PREFILL = Operation("attention.prefill", **_PAGED, summary="causal queries of rows, paged GQA")
_MERGE = Operation(
    "attention.merge", dtypes=("outs",), dims=("H", "V"), empty=("V",), summary="partial attention by log-sum-exp"
)


@overload
def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    soft_cap: float | None = ...,
    k_scale: float = ...,
    v_scale: float = ...,
    return_lse: Literal[False] = ...,
    impl: str | None = ...,
) -> Tensor: ...
@overload
def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    soft_cap: float | None = ...,
    k_scale: float = ...,
    v_scale: float = ...,
    return_lse: Literal[True],
    impl: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
@public
def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
    soft_cap: float | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    return_lse: bool = False,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the last 1 to 8 positions of each row: a new [T, H*V] of q's dtype, or (that, lse).

    q [T, H, D] fp32, bf16 or fp16 (rotated), T a multiple of B: row b's queries are q[b*T/B:(b+1)*T/B], the last of its
    positions, in order. Caches fp32, bf16, fp16 or float8_e4m3fn, both of one dtype; block_tables int32 [B, max_pages];
    seq_lens int32 [B] with the queries' own keys counted. A row of length 0 is padding; a query that sees no key gives
    zeros, and -inf as its log-sum-exp.

    ``scale``, of magnitude at most 1e20, multiplies the scores; ``soft_cap`` c makes them c * tanh(score / c) (Gemma 2,
    arXiv 2408.00118).
    ``sinks`` fp32 [H] adds exp(sink) to the softmax's denominator (GPT-OSS). ``window`` counts the query's own key;
    None and 0 see all. ``k_scale`` and ``v_scale`` multiply what the caches hold. lse fp32 [T, H]: the natural
    logarithm of the denominator, sink included. Raises ``ContractError``.

    A score of -inf is of no weight, one of +inf or NaN makes NaN of its query's output and log-sum-exp; a sink of +inf
    leaves zeros, and +inf as the log-sum-exp.
    """
    if impl is None and soft_cap is None and not return_lse:
        done = _DECODE.direct(q, k_cache, v_cache, block_tables, seq_lens, sinks, scale, window, k_scale, v_scale)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    options = checked("attention.decode", scale, window, soft_cap, k_scale, v_scale)
    rows = seq_lens.shape[0] if seq_lens.dim() == 1 else 0
    good = common(q, k_cache, v_cache, block_tables, seq_lens, sinks)
    if not (good and (q.shape[0] % rows == 0 and 0 < q.shape[0] < PAST_DECODE * rows if rows else q.shape[0] == 0)):
        reject("attention.decode", q, k_cache, v_cache, block_tables, seq_lens, sinks)
    if contract.debug():
        check_pages("attention.decode", k_cache, block_tables, seq_lens, q.shape[0] // max(rows, 1), options.window)
    sizes = (*q.shape[1:], *v_cache.shape)
    kernel = _DECODE.kernel(q.device, (q.dtype, k_cache.dtype), _dims(sizes, options, sinks), "dense", impl)
    out, lse = kernel(q, k_cache, v_cache, block_tables, seq_lens, sinks, options)
    return (out, lse) if return_lse else out


@overload
def prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    soft_cap: float | None = ...,
    k_scale: float = ...,
    v_scale: float = ...,
    return_lse: Literal[False] = ...,
    impl: str | None = ...,
) -> Tensor: ...
@overload
def prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = ...,
    sinks: Tensor | None = ...,
    soft_cap: float | None = ...,
    k_scale: float = ...,
    v_scale: float = ...,
    return_lse: Literal[True],
    impl: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
@public
def prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
    soft_cap: float | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    return_lse: bool = False,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention of several rows: a new [T, H*V] of q's dtype, or (that, lse fp32 [T, H]).

    Row r's queries are q[cu_q[r]:cu_q[r+1]], the last of its seq_lens[r] positions, so a prompt, a chunk of one and
    what follows a cached prefix are one case. cu_q int32 [B + 1] from 0 to T. Every key, the queries' own too, is read
    from the cache. All else as in ``decode``. Raises ``ContractError``.
    """
    options = checked("attention.prefill", scale, window, soft_cap, k_scale, v_scale)
    good = common(q, k_cache, v_cache, block_tables, seq_lens, sinks)
    if not (
        good
        and cu_q.dim() == 1
        and cu_q.dtype == torch.int32
        and cu_q.device == q.device
        and cu_q.shape[0] == seq_lens.shape[0] + 1
    ):
        reject("attention.prefill", q, k_cache, v_cache, block_tables, seq_lens, sinks, cu_q)
    if contract.debug():
        contract.spans("attention.prefill", cu_q, q.shape[0])
        check_pages("attention.prefill", k_cache, block_tables, seq_lens, cu_q.diff().tolist(), options.window)
    sizes = (*q.shape[1:], *v_cache.shape)
    kernel = _PREFILL.kernel(q.device, (q.dtype, k_cache.dtype), _dims(sizes, options, sinks), "dense", impl)
    out, lse = kernel(q, k_cache, v_cache, cu_q, block_tables, seq_lens, sinks, options)
    return (out, lse) if return_lse else out


@public
def merge(outs: Tensor, lses: Tensor, *, impl: str | None = None) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint sets of keys, from the attention over each: (out [T, H*V], lse [T, H]).

    outs [P, T, H*V] fp32, bf16 or fp16, lses fp32 [P, T, H], P at least 1, as ``decode`` and ``prefill`` give them. A
    part whose lse is -inf saw no keys, and counts for nothing whatever it holds; one of +inf makes NaN of the outputs.
    Sinks belong in one part only. Raises ``ContractError`` (arXiv 2501.01005, section 2.2).
    """
    if impl is None:
        done = _MERGE.direct(outs, lses)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        outs.dim() == lses.dim() == 3
        and outs.shape[:2] == lses.shape[:2]
        and lses.shape[0] > 0
        and lses.shape[2] > 0
        and outs.shape[2] % lses.shape[2] == 0
        and lses.dtype == torch.float32
        and outs.device == lses.device
    ):
        reject_merge(outs, lses)
    heads = lses.shape[2]
    kernel = _MERGE.kernel(outs.device, (outs.dtype,), (heads, outs.shape[2] // heads), "dense", impl)
    result: tuple[Tensor, Tensor] = kernel(outs, lses)
    return result


def _dims(sizes: tuple[int, ...], options: Options, sinks: Tensor | None) -> tuple[int, ...]:
    heads, width, _, page_size, shared, v = sizes
    return heads, shared, width, v, page_size, options.window, *flags(options, sinks)


_ALL = {"q": QUERIES, "cache": CACHES}
_register.reference(_DECODE, reference.decode, _ALL)
_register.reference(_PREFILL, reference.prefill, _ALL)
_register.reference(_MERGE, reference.merge, {"outs": QUERIES})
_NATIVE = {"q": contract.FLOATS, "cache": contract.CACHES}
_register.native(_DECODE, "attention.cpu:decode", _NATIVE, direct="attention.cpu:direct_decode")
_register.native(_PREFILL, "attention.cpu:prefill", _NATIVE)
_register.native(_MERGE, "attention.cpu:merge", {"outs": QUERIES}, direct="attention.cpu:direct_merge")
_register.triton(_DECODE, "attention.triton:decode", _ALL)
_register.triton(_PREFILL, "attention.triton:prefill", _ALL)
_register.triton(_MERGE, "attention.triton:merge", {"outs": QUERIES})
