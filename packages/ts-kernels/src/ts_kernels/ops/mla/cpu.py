"""Native latent attention (csrc/ops/attention_*.cpp). Arguments have passed the public functions' checks."""

from collections.abc import Sequence

from torch import Tensor

from ... import _native
from ...errors import ContractError
from .._tensors import CACHE_CODE, CODE, dense_heads, empty, rows, scale_of
from .weights import KvBWeight


def pack(kv_b: Tensor, heads: int, nope: int, v: int) -> _native.KvB:
    """Copy ``kv_b`` into the forms that decode and prefill read."""
    packed = room_for_heads(kv_b, heads, nope, v)
    put_heads(packed, kv_b, 0, heads)
    return packed


def room_for_heads(like: Tensor, heads: int, nope: int, v: int) -> _native.KvB:
    """Memory for the heads of a ``kv_b`` of this type and latent width."""
    return _native.KvB(CODE[like.dtype], heads, nope, v, like.shape[1])


def put_heads(packed: _native.KvB, kv_b: Tensor, first: int, heads: int) -> None:
    """Pack the rows of some heads, from ``first`` on, on the calling thread."""
    packed.put(kv_b.data_ptr(), kv_b.stride(0), CODE[kv_b.dtype], first, heads)


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
    lse: Tensor | None = None,
) -> Tensor:
    """A few queries a row."""
    assert weight.packed is not None
    q, block_tables, seq_lens = dense_heads(q), rows(block_tables), seq_lens.contiguous()
    pages, page_size, width = cache.shape
    out = empty((q.shape[0], weight.heads * weight.v), q.dtype)
    weight.packed.decode(
        q.data_ptr(),
        q.stride(0),
        seq_lens.shape[0],
        CODE[q.dtype],
        cache.data_ptr(),
        CACHE_CODE[cache.dtype],
        pages,
        page_size,
        width - weight.latent,
        block_tables.data_ptr(),
        block_tables.stride(0),
        block_tables.shape[1],
        seq_lens.data_ptr(),
        scale,
        out.data_ptr(),
        q_len,
        scale_of(cache_scale),
        0 if lse is None else lse.data_ptr(),
    )
    return out


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
    lse: Tensor | None = None,
) -> Tensor:
    """A few queries a row, absorbed by the caller."""
    q_latent, q_rope = dense_heads(q_latent), dense_heads(q_rope)
    block_tables, seq_lens = rows(block_tables), seq_lens.contiguous()
    pages, page_size, _ = cache.shape
    _, heads, latent = q_latent.shape
    out = empty(q_latent.shape, q_latent.dtype)
    _native.decode_absorbed(
        q_latent.data_ptr(),
        q_latent.stride(0),
        q_rope.data_ptr(),
        q_rope.stride(0),
        seq_lens.shape[0],
        heads,
        latent,
        q_rope.shape[2],
        CODE[q_latent.dtype],
        cache.data_ptr(),
        CACHE_CODE[cache.dtype],
        pages,
        page_size,
        block_tables.data_ptr(),
        block_tables.stride(0),
        block_tables.shape[1],
        seq_lens.data_ptr(),
        scale,
        out.data_ptr(),
        q_len,
        scale_of(cache_scale),
        0 if lse is None else lse.data_ptr(),
    )
    return out


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
) -> Tensor:
    """Causal attention of several rows."""
    assert weight.packed is not None
    q, cu_q, block_tables, seq_lens = dense_heads(q), cu_q.contiguous(), rows(block_tables), seq_lens.contiguous()
    if int(cu_q[0]) != 0 or int(cu_q[-1]) != q.shape[0]:
        raise ContractError("mla.prefill", "cu_q", f"from 0 to {q.shape[0]}, the tokens of q", cu_q.tolist())
    pages, page_size, width = cache.shape
    out = empty((q.shape[0], weight.heads * weight.v), q.dtype)
    weight.packed.prefill(
        q.data_ptr(),
        q.stride(0),
        seq_lens.shape[0],
        cu_q.data_ptr(),
        CODE[q.dtype],
        cache.data_ptr(),
        CACHE_CODE[cache.dtype],
        pages,
        page_size,
        width - weight.latent,
        block_tables.data_ptr(),
        block_tables.stride(0),
        block_tables.shape[1],
        seq_lens.data_ptr(),
        scale,
        out.data_ptr(),
        scale_of(cache_scale),
    )
    return out


def direct_decode(
    q: Tensor, cache: Tensor, weight: KvBWeight, block_tables: Tensor, seq_lens: Tensor, scale: float, q_len: int
) -> object:
    """``decode`` in one call; NotImplemented where the weight or a tensor is not as the kernel wants it."""
    packed = weight.packed
    return NotImplemented if packed is None else packed.direct_decode(q, cache, block_tables, seq_lens, scale, q_len)


def direct_decode_absorbed(
    q_latent: Tensor, q_rope: Tensor, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, scale: float, q_len: int
) -> object:
    """``decode_absorbed`` in one call, likewise."""
    return _native.direct_decode_absorbed(q_latent, q_rope, cache, block_tables, seq_lens, scale, q_len)


def direct_prefill(
    q: Tensor, cache: Tensor, weight: KvBWeight, cu_q: Tensor, block_tables: Tensor, seq_lens: Tensor, scale: float
) -> object:
    """``prefill`` in one call, likewise."""
    packed = weight.packed
    return NotImplemented if packed is None else packed.direct_prefill(q, cache, cu_q, block_tables, seq_lens, scale)
