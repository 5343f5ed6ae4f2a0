"""Each kind of collective, begun: functions of a local tensor and the batch. Parts may differ in length; they travel
padded to the longest, so that every backend takes them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .pending import Pending, StartedCollective
from .sizes import Sizes, batch_sizes


def all_reduce(op: Any, group: Any, *, reuse: bool) -> StartedCollective:
    """In place where ``reuse`` allows it."""

    def start(x: Tensor, batch: Any) -> Pending:
        mine = x.contiguous() if reuse else x.clone(memory_format=torch.contiguous_format)
        return Pending(dist.all_reduce(mine, op, group, async_op=True), lambda: mine)

    return start


def local_slice(dim: int, sizes: Sizes, me: int, *, reuse: bool) -> Any:
    """This rank's part; a copy unless the rest is not needed any more."""

    def run(x: Tensor, batch: Any) -> Tensor:
        extents = sizes.of(batch_sizes(batch))
        mine = x.narrow(dim, sum(extents[:me]), extents[me])
        return mine.contiguous() if reuse else mine.clone(memory_format=torch.contiguous_format)

    return run


def all_gather(dim: int, sizes: Sizes, group: Any) -> StartedCollective:
    """Parts one after the other."""

    def start(x: Tensor, batch: Any) -> Pending:
        extents = sizes.of(batch_sizes(batch))
        mine = _padded([x.movedim(dim, 0)], max(extents))
        every = mine.new_empty(len(extents), *mine.shape[1:])

        def finish() -> Tensor:
            if min(extents) == max(extents):
                return every.flatten(0, 1).movedim(0, dim).contiguous()
            whole = torch.cat([part[:n] for part, n in zip(every, extents, strict=True)])
            return whole.movedim(0, dim).contiguous()

        return Pending(dist.all_gather_into_tensor(every, mine, group, async_op=True), finish)

    return start


def reduce_scatter(dim: int, sizes: Sizes, op: Any, group: Any, me: int) -> StartedCollective:
    """This rank's part of the reduction."""

    def start(x: Tensor, batch: Any) -> Pending:
        extents = sizes.of(batch_sizes(batch))
        parts = _padded(torch.split(x.movedim(dim, 0), extents), max(extents))
        mine = parts.new_empty(parts.shape[1:])
        work = dist.reduce_scatter_tensor(mine, parts.flatten(0, 1), op, group, async_op=True)
        return Pending(work, lambda: mine[: extents[me]].movedim(0, dim).contiguous())

    return start


def all_to_all(gather: int, gathered: Sizes, scatter: int, scattered: Sizes, group: Any, me: int) -> StartedCollective:
    """One dimension becomes whole, another one cut."""

    def start(x: Tensor, batch: Any) -> Pending:
        rows, columns = gathered.of(batch_sizes(batch)), scattered.of(batch_sizes(batch))
        moved = x.movedim((gather, scatter), (0, 1))
        send = moved.new_zeros(len(rows), max(rows), max(columns), *moved.shape[2:])
        for block, part in zip(send, torch.split(moved, columns, dim=1), strict=True):
            block[: part.shape[0], : part.shape[1]] = part
        received = torch.empty_like(send)

        def finish() -> Tensor:
            whole = torch.cat([part[:n, : columns[me]] for part, n in zip(received, rows, strict=True)])
            return whole.movedim((0, 1), (gather, scatter)).contiguous()

        return Pending(dist.all_to_all_single(received, send, group=group, async_op=True), finish)

    return start


def _padded(parts: Sequence[Tensor], length: int) -> Tensor:
    """Stack parts that differ in dim 0, padded to ``length`` rows each: [ranks, length, ...]."""
    if all(part.shape[0] == length for part in parts):
        return torch.stack(list(parts))
    out = parts[0].new_zeros(len(parts), length, *parts[0].shape[1:])
    for row, part in zip(out, parts, strict=True):
        row[: part.shape[0]] = part
    return out
