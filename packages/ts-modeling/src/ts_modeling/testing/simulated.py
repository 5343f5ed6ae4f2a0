"""All ranks of a mesh as threads of one process, with collectives written from their definitions.

A compiled plan runs as it is, in-place reductions and all, without process groups; only timing differs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from ..communication.collectives import local_slice
from ..communication.dispatch import Route, rows_for
from ..communication.sizes import batch_sizes, sizes_of
from ..compiler import Plans, lower_plans
from ..compiler.program import Collect, Communication, Dispatch, FusedNorm
from ..placement import Mesh


def run_simulated(plans: Sequence[Plans], batches: Sequence[Any]) -> list[Any]:
    """What each rank's compiled function gives for its batch; ``plans`` and ``batches`` by rank."""
    board = _Board(len(plans))
    functions = [lower_plans(p, SimulatedCollectives(p.programs[0].mesh, board))[1] for p in plans]

    def run(rank: int) -> Any:
        function = functions[rank]
        assert function
        try:
            return function(batches[rank])
        except BaseException:
            board.barrier.abort()  # else the other ranks wait for this one
            raise

    with ThreadPoolExecutor(len(plans)) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(len(plans))]]


class _Board:
    """Where every rank leaves what the others read."""

    def __init__(self, world: int) -> None:
        self.barrier, self.notes = Barrier(world, timeout=60), list[Any]([None] * world)

    def exchange(self, rank: int, note: Any) -> list[Any]:
        """The notes of all ranks."""
        self.notes[rank] = note
        self.barrier.wait()
        out = list(self.notes)
        self.barrier.wait()
        return out


class _Done:
    def __init__(self, result: Any) -> None:
        self.result = result

    def wait(self) -> Any:
        return self.result


class SimulatedCollectives:
    """One rank's ``Collectives``. Every rank takes part in every exchange, as all run the same plan."""

    def __init__(self, mesh: Mesh, board: _Board) -> None:
        self.mesh, self.board = mesh, board

    def collective(self, op: Communication, *, reuse: bool) -> Callable[..., Any]:
        """As ``Communicator``."""
        if isinstance(op, Dispatch):
            return lambda *args: self._dispatch(op, args[:-1])
        if isinstance(op, Collect):
            if op.kind == "slice":
                dim, sizes = _number(op, op.step.scatter), sizes_of(op, op.step.scatter, self.mesh)
                out: Callable[..., Any] = local_slice(dim, sizes, self.mesh.index(op.step.atoms), reuse=reuse)
                return out
            return lambda x, batch: self._collect(op, x, batch, reuse)
        return lambda x, route, batch: self._combine(op.dispatch.atoms, x, route)

    def start(self, op: Communication, *, reuse: bool) -> Callable[..., Any]:
        """Done at once, in place too, where ``reuse`` allows it."""
        function = self.collective(op, reuse=reuse)
        return lambda *args: _Done(function(*args))

    def reduce_then_norm(self, fused: FusedNorm, *, reuse: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        """The two of them one after the other."""
        reduce, norm = self.collective(fused.collect, reuse=reuse), fused.call.leaf.forward

        def run(x: Tensor, residual: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            out: tuple[Tensor, Tensor] = norm(reduce(x, batch), residual)
            return out

        return run

    def _of_group(self, atoms: tuple[int, ...], note: Any) -> list[Any]:
        notes = self.board.exchange(self.mesh.rank, note)
        return [notes[rank] for rank in self.mesh.group(atoms)]

    def _collect(self, op: Collect, x: Tensor, batch: Any, reuse: bool) -> Tensor:
        step, me = op.step, self.mesh.index(op.step.atoms)
        parts: list[Tensor] = self._of_group(step.atoms, x.clone())
        if step.scatter:
            dim, lengths = _number(op, step.scatter), sizes_of(op, step.scatter, self.mesh).of(batch_sizes(batch))
            parts = [torch.split(part, lengths, dim)[me] for part in parts]
        if step.gather:
            return torch.cat(parts, _number(op, step.gather))
        out = torch.stack(parts).sum(0) if step.op == "sum" else torch.stack(parts).amax(0)
        return x.copy_(out) if reuse and step.kind == "all_reduce" else out

    def _dispatch(self, op: Dispatch, tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        ranks, me = self.mesh.group_size(op.atoms), self.mesh.index(op.atoms)
        sent = rows_for(tensors[op.routed.ids], op.routed.count // ranks, ranks)
        parts = self._of_group(op.atoms, ([t.clone() for t in tensors], sent))
        came = [[t[rows[me]] for t in theirs] for theirs, rows in parts]
        route = Route(sent, [len(part[0]) for part in came], len(tensors[0]))
        return (*(torch.cat(t) for t in zip(*came, strict=True)), route)

    def _combine(self, atoms: tuple[int, ...], x: Tensor, route: Route) -> Tensor:
        back = self._of_group(atoms, torch.split(x.clone(), route.received))
        out = x.new_zeros(route.rows, *x.shape[1:])
        for rows, parts in zip(route.sent, back, strict=True):
            out.index_add_(0, rows, parts[self.mesh.index(atoms)])
        return out


def _number(op: Collect, dim: str | None) -> int:
    return [d.name for d in op.source.dims].index(str(dim))
