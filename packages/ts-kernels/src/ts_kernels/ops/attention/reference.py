"""Attention over a paged cache in plain torch, fp32; softmax as in arXiv 1706.03762, sinks as in GPT-OSS.

Legend: B rows, T tokens, Q queries of a row, S keys, H heads, K heads of the cache (H_kv elsewhere), G = H / K heads
that share one, D key width, V value width, P parts.
"""

import torch
from torch import Tensor

from .options import Options


def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """As many queries in every row: its last positions."""
    rows = seq_lens.shape[0]
    step = q.shape[0] // max(rows, 1)
    cu_q = torch.arange(rows + 1, dtype=torch.int32, device="cpu") * step
    return prefill(q, k_cache, v_cache, cu_q, block_tables, seq_lens, sinks, options)


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
    """Each row's queries are its last positions: (out [T, H*V], lse [T, H])."""
    out_THV = q.new_zeros(q.shape[0], q.shape[1], v_cache.shape[3], dtype=torch.float32)
    lse_TH = q.new_full(q.shape[:2], -torch.inf, dtype=torch.float32)
    bounds = cu_q.tolist()
    for row, length in enumerate(seq_lens.tolist()):
        mine = slice(bounds[row], bounds[row + 1])
        if length and mine.stop > mine.start:
            oldest = first_key(length - (mine.stop - mine.start), options.window)
            k_SKD = gather(k_cache, block_tables[row], oldest, length) * options.k_scale
            v_SKV = gather(v_cache, block_tables[row], oldest, length) * options.v_scale
            out_THV[mine], lse_TH[mine] = _attend(q[mine].float(), k_SKD, v_SKV, sinks, options)
    return out_THV.flatten(1).to(q.dtype), lse_TH


def first_key(position: int, window: int) -> int:
    """The oldest key that a query at ``position`` sees."""
    return max(position + 1 - window, 0) if window else 0


def gather(cache: Tensor, pages: Tensor, first: int, length: int) -> Tensor:
    """Keys [first, length) of a row, fp32 [S, K, D], through its page table; older pages are not looked up."""
    page_size = cache.shape[1]
    skipped = first // page_size
    used = pages[skipped : -(-length // page_size)].long()
    start = skipped * page_size
    return cache[used].flatten(0, 1)[first - start : length - start].float()


def _attend(
    q_QHD: Tensor, k_SKD: Tensor, v_SKV: Tensor, sinks: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    queries, keys, shared = q_QHD.shape[0], k_SKD.shape[0], k_SKD.shape[1]
    q_QKGD = q_QHD.reshape(queries, shared, q_QHD.shape[1] // shared, q_QHD.shape[2])
    scores_HQS = torch.einsum("qkgd,skd->kgqs", q_QKGD, k_SKD).flatten(0, 1) * options.scale
    if options.soft_cap:
        scores_HQS = options.soft_cap * torch.tanh(scores_HQS / options.soft_cap)
    # How many keys a key lies behind each query; both ends of the last key and the last query meet.
    behind_QS = torch.arange(queries, device=q_QHD.device)[:, None] - queries
    behind_QS = behind_QS - torch.arange(keys, device=q_QHD.device) + keys
    seen_QS = behind_QS >= 0
    if options.window:
        seen_QS &= behind_QS < options.window
    scores_HQS = scores_HQS.masked_fill(~seen_QS, -torch.inf)
    lse_HQ = torch.logsumexp(scores_HQS, -1)
    nothing_HQ, lse_HQ = lse_HQ == -torch.inf, lse_HQ.masked_fill(lse_HQ == torch.inf, torch.nan)
    p_HQS = torch.softmax(scores_HQS, -1)
    if sinks is not None:
        keys_HQ, lse_HQ = lse_HQ, torch.where(nothing_HQ, lse_HQ, torch.logaddexp(lse_HQ, sinks[:, None]))
        p_HQS = p_HQS * torch.exp(keys_HQ - lse_HQ)[..., None]
    p_HQS = p_HQS.masked_fill(nothing_HQ[..., None], 0.0)
    out_QKGV = torch.einsum("kgqs,skv->qkgv", p_HQS.view(*q_QKGD.shape[1:3], queries, keys), v_SKV)
    return out_QKGV.flatten(1, 2), lse_HQ.t()


def merge(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Weighs each part by its share of the softmax's denominator."""
    lse_TH = torch.logsumexp(lses, 0)
    top_TH = lses.amax(0)
    share_PTH = torch.exp(lses - top_TH.masked_fill(top_TH == -torch.inf, 0.0))
    share_PTH = torch.where(lse_TH == -torch.inf, 0.0, share_PTH / share_PTH.sum(0))
    parts_PTHV = outs.float().reshape(*lses.shape, outs.shape[2] // lses.shape[2])
    kept_PTHV = parts_PTHV.masked_fill((share_PTH == 0.0)[..., None], 0.0)
    return (kept_PTHV * share_PTH[..., None]).sum(0).flatten(1).to(outs.dtype), lse_TH
