"""Multi-head latent attention in plain torch, fp32 (DeepSeek-V2, arXiv 2405.04434).

Legend: B rows, T tokens, S keys, H heads, N no-position width, R rotary width, V value width, L latent width.
Decode uses the absorbed form and prefill the expanded one, two routes to the same numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .weights import KvBWeight


def gather(cache: Tensor, pages: Tensor, length: int, cache_scale: Tensor | None = None) -> Tensor:
    """The first ``length`` entries of a row, fp32 [S, L+R], through its page table."""
    used = pages[: -(-length // cache.shape[1])].long()
    # Some devices cannot index FP8: its bytes are gathered.
    held = cache.view(torch.uint8)[used].view(cache.dtype) if cache.dtype.itemsize == 1 else cache[used]
    entries = held.flatten(0, 1)[:length].float()
    return entries if cache_scale is None else entries * cache_scale


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
    """The last ``q_len`` positions of each row: scores and sums on the latents themselves."""
    q_THW = torch.cat((q_latent, q_rope), dim=-1).float()
    latent = q_latent.shape[2]
    mixed_THL = q_THW.new_zeros(q_latent.shape)
    lse_TH = q_THW.new_full(q_latent.shape[:2], -torch.inf)
    for row, length in enumerate(seq_lens.tolist()):
        if not length:
            continue
        entries_SW = gather(cache, block_tables[row], length, cache_scale)
        for i in range(q_len):
            token, seen_SW = row * q_len + i, entries_SW[: length - q_len + i + 1]
            scores_HS = q_THW[token] @ seen_SW.t() * scale
            mixed_THL[token] = torch.softmax(scores_HS, dim=-1) @ seen_SW[:, :latent]
            sums_H = scores_HS.logsumexp(-1)
            lse_TH[token] = sums_H.masked_fill(sums_H == torch.inf, torch.nan)  # as of an infinite score its softmax is
    if lse is not None:
        lse.copy_(lse_TH)
    return mixed_THL.to(q_latent.dtype)


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
    """The last ``q_len`` positions of each row, in the absorbed form."""
    w_uk_HNL, w_uv_HVL = weight.split()
    q_nope_THN, q_rope_THR = torch.split(q.float(), [weight.nope, q.shape[2] - weight.nope], dim=-1)
    q_THL = torch.einsum("thn,hnl->thl", q_nope_THN, w_uk_HNL)
    options: dict[str, Any] = {"q_len": q_len, "cache_scale": cache_scale, "lse": lse}
    mixed_THL = decode_absorbed(q_THL, q_rope_THR, cache, block_tables, seq_lens, scale, **options)
    return torch.einsum("thl,hvl->thv", mixed_THL, w_uv_HVL).flatten(1).to(q.dtype)


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
    """Each row's queries are its last positions; keys and values of every head are made from the latents."""
    out_THV = q.new_zeros(q.shape[0], weight.heads, weight.v, dtype=torch.float32)
    bounds = cu_q.tolist()
    for row, length in enumerate(host_seq_lens or seq_lens.tolist()):
        start, stop = bounds[row], bounds[row + 1]
        if stop > start:
            entries_SW = gather(cache, block_tables[row], length, cache_scale)
            out_THV[start:stop] = _attend(q[start:stop].float(), entries_SW, weight, scale)
    return out_THV.flatten(1).to(q.dtype)


def _attend(q_QHD: Tensor, entries_SW: Tensor, weight: KvBWeight, scale: float) -> Tensor:
    w_uk_HNL, w_uv_HVL = weight.split()
    latent_SL, rope_SR = entries_SW[:, : weight.latent], entries_SW[:, weight.latent :]
    k_HSN = torch.einsum("sl,hnl->hsn", latent_SL, w_uk_HNL)
    v_HSV = torch.einsum("sl,hvl->hsv", latent_SL, w_uv_HVL)
    scores_HQS = torch.einsum("qhn,hsn->hqs", q_QHD[..., : weight.nope], k_HSN)
    scores_HQS = (scores_HQS + torch.einsum("qhr,sr->hqs", q_QHD[..., weight.nope :], rope_SR)) * scale
    queries, keys = q_QHD.shape[0], entries_SW.shape[0]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q_QHD.device).tril(keys - queries)
    p_HQS = torch.softmax(scores_HQS.masked_fill(~seen, -torch.inf), dim=-1)
    return torch.einsum("hqs,hsv->qhv", p_HQS, v_HSV)
