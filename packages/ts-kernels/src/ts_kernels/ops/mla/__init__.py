"""Multi-head latent attention over a paged cache (DeepSeek-V2, arXiv 2405.04434).

Legend: B rows, T tokens, H heads, N no-position width, R rotary width, V value width, L latent width. The cache is
[pages, page_size, L+R] as ``kv_cache.write_latent`` fills it; block tables give each row's pages in order.
"""

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from ... import contract, settings
from ...registry import KernelSpec, at_most
from ...selection import Operation
from .. import _register
from .._public import public
from .._scales import MOST_SCALE, check_scale, reject_scale
from ..gemm.weights import checked
from . import reference
from ._checks import MOST_QUERIES, check_values, reject, reject_absorbed, rows_of
from .builder import KvBBuilder
from .weights import KvBWeight

__all__ = ["KvBBuilder", "KvBWeight", "decode", "decode_absorbed", "prefill", "prepare_kv_b"]

_DTYPES = ("q", "cache", "weight")
_DIMS = ("H", "N", "R", "V", "L", "page_size")
_DECODE = Operation(
    "mla.decode",
    dtypes=_DTYPES,
    dims=(*_DIMS, "q_len"),
    limits=(at_most("q_len", MOST_QUERIES),),
    summary="a few queries a row over the paged latents",
)
_DECODE_ABSORBED = Operation(
    "mla.decode_absorbed",
    dtypes=("q_latent", "cache"),
    dims=("H", "R", "L", "page_size", "q_len"),
    limits=(at_most("q_len", MOST_QUERIES),),
    summary="mla.decode from absorbed queries to latents",
)
_PREFILL = Operation(
    "mla.prefill", dtypes=_DTYPES, dims=_DIMS, summary="causal queries of several rows over the paged latents"
)
_HELD = frozenset({"dense", "dense+packed"})


@public
def prepare_kv_b(kv_b: Tensor, heads: int, nope: int, v: int, *, keep_source: bool = False) -> KvBWeight:
    """Bring ``kv_b`` [H * (N + V), L], fp32 or bf16, to the forms that decode and prefill read.

    The result does not refer to ``kv_b`` where it is packed. Numbers that are not finite are passed on, as products
    with plain weights do. Raises ``ContractError``.
    """
    kv_b = checked("mla.prepare_kv_b", "kv_b", kv_b)
    for name, size in (("heads", heads), ("nope", nope), ("v", v)):
        contract.count("mla.prepare_kv_b", name, size)
    latent = kv_b.shape[1]
    contract.shape("mla.prepare_kv_b", "kv_b", kv_b, heads * (nope + v), latent)
    packs = kernel_of(kv_b, heads, nope, v).prepare
    packed = None if packs is None else packs(kv_b, heads, nope, v)
    keep = packed is None or keep_source or settings.current().keep_source
    return KvBWeight(heads, nope, v, latent, kv_b.dtype, kv_b.device, kv_b if keep else None, packed)


def kernel_of(kv_b: Tensor, heads: int, nope: int, v: int) -> KernelSpec:
    """The kernel that such a weight [.., L] is prepared for."""
    # The cache's dtype, rotary width and page size are not known yet; no kernel's packing depends on them.
    dtypes, dims = (torch.float32, torch.bfloat16, kv_b.dtype), (heads, nope, 2, v, kv_b.shape[1], 16, 1)
    return _DECODE.choose(kv_b.device, dtypes, dims, "dense+packed")


@overload
def decode(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: Literal[False] = False,
    impl: str | None = None,
) -> Tensor: ...
@overload
def decode(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: Literal[True],
    impl: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@public
def decode(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: bool = False,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the last ``q_len`` positions of each row: a new [T, H*V] of q's dtype, T = B * q_len.

    q [T, H, N+R] fp32 or bf16 (rotated), a row's queries side by side and in order, q_len from 1 to 8; each sees the
    keys up to its own. cache fp32, bf16 or float8_e4m3fn, there with ``cache_scale`` fp32 [1] (a number is what is
    stored times it; 1 where left out). block_tables int32 [B, max_pages]; seq_lens int32 [B], all q_len keys of the
    queries counted: 0 (padding, gives zeros) or at least q_len. ``scale``, of magnitude at most 1e20, multiplies the
    scores. Table entries past a row's length are not read. With ``return_lse`` also fp32 [T, H]: the natural
    log-sum-exp of each query's scaled scores, minus infinity where it saw no key. Raises ``ContractError``.
    """
    if not -MOST_SCALE <= scale <= MOST_SCALE:
        reject_scale("mla.decode", scale)
    if impl is None and cache_scale is None and not return_lse:
        done = _DECODE.direct(q, cache, weight, block_tables, seq_lens, scale, q_len)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    rows = rows_of("mla.decode", "q", q, q_len)
    if not (_common(q, cache, weight, block_tables, seq_lens) and rows == seq_lens.shape[0] == block_tables.shape[0]):
        reject("mla.decode", q, cache, weight, block_tables, seq_lens, rows)
    check_scale("mla.decode", cache, cache_scale)
    if contract.debug():
        check_values("mla.decode", cache, block_tables, seq_lens, q_len)
    dtypes, sizes = (q.dtype, cache.dtype, weight.dtype), (*_sizes(q, cache, weight), q_len)
    kernel = _DECODE.kernel(q.device, dtypes, sizes, weight.format, impl)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32) if return_lse else None
    options = {"q_len": q_len, "cache_scale": cache_scale, "lse": lse}
    result: Tensor = kernel(q, cache, weight, block_tables, seq_lens, scale, **options)
    return result if lse is None else (result, lse)


@overload
def decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: Literal[False] = False,
    impl: str | None = None,
) -> Tensor: ...
@overload
def decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: Literal[True],
    impl: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@public
def decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int = 1,
    cache_scale: Tensor | None = None,
    return_lse: bool = False,
    impl: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``decode`` for a caller that takes queries into the latent space and results out of it itself.

    q_latent [T, H, L] (q_nope times the up-projection of keys) and q_rope [T, H, R] of one dtype, heads and tokens of
    either spaced as they may be; gives a new [T, H, L] of that dtype: the mean of the latents by attention weight.
    Everything else is as in ``decode``. Raises ``ContractError``.
    """
    if not -MOST_SCALE <= scale <= MOST_SCALE:
        reject_scale("mla.decode_absorbed", scale)
    if impl is None and cache_scale is None and not return_lse:
        done = _DECODE_ABSORBED.direct(q_latent, q_rope, cache, block_tables, seq_lens, scale, q_len)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    rows = rows_of("mla.decode_absorbed", "q_latent", q_latent, q_len)
    if not (
        q_latent.dim() == q_rope.dim() == cache.dim() == 3
        and block_tables.dim() == 2
        and q_rope.shape[:2] == q_latent.shape[:2]
        and cache.shape[2] == q_latent.shape[2] + q_rope.shape[2]
        and 0 not in (*q_latent.shape[1:], q_rope.shape[2], cache.shape[1])
        and q_latent.dtype == q_rope.dtype
        and seq_lens.shape == (rows,) == block_tables.shape[:1]
        and block_tables.dtype == seq_lens.dtype == torch.int32
        and cache.is_contiguous()
        and q_latent.device == q_rope.device == cache.device == block_tables.device == seq_lens.device
    ):
        reject_absorbed(q_latent, q_rope, cache, block_tables, seq_lens, rows)
    check_scale("mla.decode_absorbed", cache, cache_scale)
    if contract.debug():
        check_values("mla.decode_absorbed", cache, block_tables, seq_lens, q_len)
    sizes = (q_latent.shape[1], q_rope.shape[2], q_latent.shape[2], cache.shape[1], q_len)
    kernel = _DECODE_ABSORBED.kernel(q_latent.device, (q_latent.dtype, cache.dtype), sizes, "dense", impl)
    lse = q_latent.new_empty(q_latent.shape[:2], dtype=torch.float32) if return_lse else None
    options = {"q_len": q_len, "cache_scale": cache_scale, "lse": lse}
    result: Tensor = kernel(q_latent, q_rope, cache, block_tables, seq_lens, scale, **options)
    return result if lse is None else (result, lse)


@public
def prefill(
    q: Tensor,
    cache: Tensor,
    weight: KvBWeight,
    cu_q: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    cache_scale: Tensor | None = None,
    host_seq_lens: Sequence[int] | None = None,
    impl: str | None = None,
) -> Tensor:
    """Causal attention of several rows: a new [T, H*V] of q's dtype.

    q [T, H, N+R] fp32 or bf16 (rotated); row r's queries are q[cu_q[r]:cu_q[r+1]], the last of its seq_lens[r]
    positions. cu_q int32 [rows + 1] from 0 to T, block_tables int32 [rows, max_pages], seq_lens int32 [rows]. Every
    key, the queries' own too, is read from the cache, whose dtype and ``cache_scale`` are as in ``decode``.
    ``host_seq_lens`` are the same lengths where the caller has them on the host: a kernel on a GPU plans by them, and
    without them waits for the device to read them back. Raises ``ContractError``.
    """
    if not -MOST_SCALE <= scale <= MOST_SCALE:
        reject_scale("mla.prefill", scale)
    if host_seq_lens is not None:
        _check_host_lengths(seq_lens, host_seq_lens)
    if impl is None and cache_scale is None:
        done = _PREFILL.direct(q, cache, weight, cu_q, block_tables, seq_lens, scale)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if not (
        _common(q, cache, weight, block_tables, seq_lens)
        and cu_q.dim() == 1
        and cu_q.dtype == torch.int32
        and cu_q.device == q.device
        and cu_q.shape[0] == seq_lens.shape[0] + 1
        and block_tables.shape[0] == seq_lens.shape[0]
    ):
        reject("mla.prefill", q, cache, weight, block_tables, seq_lens, cu_q=cu_q)
    check_scale("mla.prefill", cache, cache_scale)
    if contract.debug():
        contract.spans("mla.prefill", cu_q, q.shape[0])
        check_values("mla.prefill", cache, block_tables, seq_lens, cu_q.diff().tolist())
    kernel = _PREFILL.kernel(
        q.device, (q.dtype, cache.dtype, weight.dtype), _sizes(q, cache, weight), weight.format, impl
    )
    options = {"cache_scale": cache_scale, "host_seq_lens": host_seq_lens}
    result: Tensor = kernel(q, cache, weight, cu_q, block_tables, seq_lens, scale, **options)
    return result


def _check_host_lengths(seq_lens: Tensor, host_seq_lens: Sequence[int]) -> None:
    """As many as rows; in debug mode, equal to ``seq_lens``."""
    if seq_lens.dim() == 1 and len(host_seq_lens) != seq_lens.shape[0]:
        contract.fail("mla.prefill", "host_seq_lens", f"{seq_lens.shape[0]} lengths", list(host_seq_lens))
    if contract.debug() and list(host_seq_lens) != seq_lens.tolist():
        contract.fail("mla.prefill", "host_seq_lens", f"equal to seq_lens, {seq_lens.tolist()}", list(host_seq_lens))


def _sizes(q: Tensor, cache: Tensor, weight: KvBWeight) -> tuple[int, ...]:
    return weight.heads, weight.nope, q.shape[2] - weight.nope, weight.v, weight.latent, cache.shape[1]


def _common(q: Tensor, cache: Tensor, weight: KvBWeight, block_tables: Tensor, seq_lens: Tensor) -> bool:
    return (
        q.dim() == 3
        and cache.dim() == 3
        and block_tables.dim() == 2
        and seq_lens.dim() == 1
        and q.shape[1] == weight.heads
        and cache.shape[2] - weight.latent == q.shape[2] - weight.nope > 0
        and cache.shape[1] > 0
        and cache.is_contiguous()
        and block_tables.dtype == seq_lens.dtype == torch.int32
        and q.device == cache.device == block_tables.device == seq_lens.device == weight.device
    )


_TAKEN = {"q": contract.REALS, "cache": contract.REALS | contract.CACHES, "weight": contract.FLOATS}
_register.reference(_DECODE, reference.decode, _TAKEN, _HELD)
_register.reference(_DECODE_ABSORBED, reference.decode_absorbed, {"q_latent": contract.REALS, "cache": _TAKEN["cache"]})
_register.reference(_PREFILL, reference.prefill, _TAKEN, _HELD)
_PLAIN = {"q": contract.FLOATS, "cache": contract.CACHES, "weight": contract.FLOATS}
_ABSORBED = {"q_latent": contract.FLOATS, "cache": contract.CACHES}
_NATIVE_FORMATS = frozenset({"packed", "dense+packed"})
for _operation, _name in ((_DECODE, "decode"), (_PREFILL, "prefill")):
    _register.native(
        _operation,
        f"mla.cpu:{_name}",
        _PLAIN,
        formats=_NATIVE_FORMATS,
        prepare="mla.cpu:pack",
        in_runs=True,
        direct=f"mla.cpu:direct_{_name}",
    )
_register.native(_DECODE_ABSORBED, "mla.cpu:decode_absorbed", _ABSORBED, direct="mla.cpu:direct_decode_absorbed")
_register.triton(_DECODE, "mla.triton:decode", _PLAIN, formats=_HELD)
_register.triton(_DECODE_ABSORBED, "mla.triton:decode_absorbed", _ABSORBED)
_register.triton(_PREFILL, "mla.triton:prefill", _PLAIN, formats=_HELD)
