"""Cases of ts_kernels.mla."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import mla
from .common import Case, Maker, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    kv_b = mla.prepare_kv_b(make.weight(s.heads * (s.nope + s.v), s.latent), s.heads, s.nope, s.v, keep_source=True)
    cache, tables = paged_cache(s, make, rows=s.rows, length=s.context)
    q, lengths = make(s.rows, s.heads, s.head), torch.full((s.rows,), s.context, dtype=torch.int32, device=make.device)
    scale = s.head**-0.5
    entries = cache[tables[0].long()].flatten(0, 1)[: s.context].to(q.dtype)
    w_uk, w_uv = (part.to(q.dtype) for part in kv_b.split())

    def absorbed() -> Tensor:
        latent = torch.einsum("bhn,hnl->bhl", q[..., : s.nope], w_uk)
        scores = torch.cat((latent, q[..., s.nope :]), -1) @ entries.t() * scale
        return torch.einsum("bhl,hvl->bhv", scores.softmax(-1) @ entries[:, : s.latent], w_uv)

    width, up = s.latent + s.rope, s.heads * (s.nope + s.v) * s.latent

    def moved(queries: Tensor) -> int:  # keys and weights once
        out = len(queries) * s.heads * s.v * queries.element_size()
        return 2 * (s.rows * s.context * width + up) + nbytes(queries) + out

    def computed(queries: Tensor) -> int:
        return 2 * len(queries) * (up + s.heads * s.context * (width + s.latent))

    yield Case(
        "mla.decode",
        lambda impl: (mla.decode(q, cache, kv_b, tables, lengths, scale, impl=impl),),
        absorbed,
        bytes=moved(q),
        flops=computed(q),
        roundings=2,
    )
    speculated = make(4 * s.rows, s.heads, s.head)

    def speculate(impl: str | None) -> tuple[Tensor, ...]:
        return mla.decode(speculated, cache, kv_b, tables, lengths, scale, q_len=4, return_lse=True, impl=impl)

    yield Case(
        "mla.decode",
        speculate,
        None,
        bytes=moved(speculated),
        flops=computed(speculated),
        roundings=2,
        variant="of 4, with lse",
    )
    latents, ropes = make(s.rows, s.heads, s.latent, scale=s.nope**-0.5), make(s.rows, s.heads, s.rope)
    quantized, one = cache.to(torch.float8_e4m3fn), torch.ones(1, device=make.device)

    def absorb(impl: str | None) -> tuple[Tensor, ...]:
        return mla.decode_absorbed(
            latents, ropes, quantized, tables, lengths, scale, cache_scale=one, return_lse=True, impl=impl
        )

    yield Case(
        "mla.decode_absorbed",
        absorb,
        None,
        bytes=s.rows * s.context * width + nbytes(latents, ropes, latents),
        flops=2 * s.rows * s.heads * s.context * (width + s.latent),
        roundings=2,
    )
    prompt = make(s.prompt, s.heads, s.head)
    cu_q = torch.tensor([0, s.prompt], dtype=torch.int32, device=make.device)
    yield Case(
        "mla.prefill",
        lambda impl: (mla.prefill(prompt, cache, kv_b, cu_q, tables[:1], lengths[:1], scale, impl=impl),),
        _torch_prefill(prompt, entries, w_uk, w_uv, scale),
        bytes=2 * (s.context * width + up) + nbytes(prompt) + s.prompt * s.heads * s.v * q.element_size(),
        flops=2 * s.context * up + 2 * s.heads * (s.head + s.v) * s.prompt * (2 * s.context - s.prompt + 1) // 2,
        roundings=2,
    )


def _torch_prefill(q: Tensor, entries: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float) -> Callable[[], object]:
    """Keys and values expanded for all heads, then torch's fused attention."""
    (queries, heads, _), (keys, _) = q.shape, entries.shape
    latent = w_uk.shape[2]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)

    def run() -> Tensor:
        k = torch.einsum("sl,hnl->hsn", entries[:, :latent], w_uk)
        k = torch.cat((k, entries[None, :, latent:].expand(heads, -1, -1)), -1)
        v = torch.einsum("sl,hvl->hsv", entries[:, :latent], w_uv)
        return F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], attn_mask=seen, scale=scale)

    return run


def paged_cache(s: Sizes, make: Maker, *, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """A bf16 cache whose rows hold ``length`` random entries in shuffled pages, NaN elsewhere, and the page tables."""
    per_row = -(-length // s.page_size)
    pages = rows * per_row + 3
    cache = torch.full((pages, s.page_size, s.latent + s.rope), torch.nan, dtype=torch.bfloat16, device=make.device)
    tables = make.shuffled(pages)[: rows * per_row].view(rows, per_row)
    for row in range(rows):
        entries = torch.full(
            (per_row * s.page_size, s.latent + s.rope), torch.nan, dtype=torch.bfloat16, device=make.device
        )
        entries[:length] = make(length, s.latent + s.rope).bfloat16()
        cache[tables[row]] = entries.view(per_row, s.page_size, -1)
    return cache, tables.int()
