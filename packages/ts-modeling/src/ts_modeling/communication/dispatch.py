"""Rows to the ranks that have work for them, and back.

Legend: T rows of this rank, k ids of a row, C copies that came to this rank, B bytes of a row as it travels.

A row goes once to each rank that has one of its ids, with its ids and weights behind it, in one message of bytes; how
many rows come from where is told before. What comes back is added up in the order of the ranks, so that a result does
not depend on who was faster.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .pending import Pending, StartedCollective


@dataclass(frozen=True, slots=True)
class Route:
    """Which of this rank's rows went to each rank, in rank order, and how many rows came from each."""

    sent: list[Tensor]
    received: list[int]
    rows: int
    """T."""


def dispatch(ids: int, experts: int, ranks: int, group: Any) -> StartedCollective:
    """Of tensors with T rows (number ``ids`` the ids) and the batch: the same with C rows, and the ``Route``."""
    assert experts % ranks == 0, f"{experts} experts have no equal parts on {ranks} ranks"
    per_rank = experts // ranks

    def start(*args: Any) -> Pending:
        tensors: tuple[Tensor, ...] = args[:-1]
        sent = rows_for(tensors[ids], per_rank, ranks)
        counts = _counts(sent, tensors[ids].device)
        coming = torch.empty_like(counts)
        dist.all_to_all_single(coming, counts, group=group)
        route = Route(sent, coming.tolist(), tensors[ids].shape[0])
        packed_TB = _pack(tensors)
        out_CB = packed_TB.new_empty(sum(route.received), packed_TB.shape[1])
        rows = packed_TB[torch.cat(sent)]
        work = dist.all_to_all_single(out_CB, rows, route.received, [len(r) for r in sent], group=group, async_op=True)
        return Pending(work, lambda: (*_unpack(out_CB, tensors), route))

    return start


def combine(group: Any) -> StartedCollective:
    """Of a tensor with C rows, the ``Route`` that brought them and the batch: the sums over the copies, T rows."""

    def start(x_CD: Tensor, route: Route, batch: Any) -> Pending:
        counts = [len(rows) for rows in route.sent]
        back = x_CD.new_empty(sum(counts), *x_CD.shape[1:])
        work = dist.all_to_all_single(back, x_CD.contiguous(), counts, route.received, group=group, async_op=True)

        def finish() -> Tensor:
            out_TD = back.new_zeros(route.rows, *back.shape[1:])
            for rows, part in zip(route.sent, torch.split(back, counts), strict=True):
                out_TD.index_add_(0, rows, part)
            return out_TD

        return Pending(work, finish)

    return start


def rows_for(ids_Tk: Tensor, per_rank: int, ranks: int) -> list[Tensor]:
    """The rows that have an id of each rank, in rank order."""
    owners_Tk = torch.div(ids_Tk, per_rank, rounding_mode="floor")
    return [(owners_Tk == rank).any(dim=1).nonzero().flatten() for rank in range(ranks)]


def _counts(sent: list[Tensor], device: torch.device) -> Tensor:
    return torch.tensor([len(rows) for rows in sent], dtype=torch.int64, device=device)


def _pack(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.contiguous().view(torch.uint8) for t in tensors], dim=1)


def _unpack(packed_CB: Tensor, like: tuple[Tensor, ...]) -> list[Tensor]:
    widths = [t.shape[1] * t.itemsize for t in like]
    parts = torch.split(packed_CB, widths, dim=1)
    return [part.contiguous().view(t.dtype) for part, t in zip(parts, like, strict=True)]
