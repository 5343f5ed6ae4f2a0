"""Carries out a plan's collectives for one rank.

The process group is the caller's (``ts_modeling.join``, or ``init_process_group``), and so is how long ranks wait for
one another. Every rank must build its ``Communicator`` for the same programs, which is checked: groups are made
collectively, in program order.
"""

from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from ..compiler import Forward
from ..compiler.program import Collect, Combine, Communication, Dispatch, FusedNorm, Program, collective_of
from ..errors import MeshError
from ..placement import Mesh
from . import collectives
from .agreement import agree, facts_of
from .dispatch import combine, dispatch
from .pending import Collective, StartedCollective, lost, named, waited
from .plugins import CollectiveRequest, Plugins
from .sizes import checking_sizes, sizes_of

OPS: Final = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class Communicator:
    """Makes the functions of the programs' collectives for ``mesh.rank``; alike ones are one function.

    Functions take local tensors and the batch, whose ``dp_sizes`` say how many tokens each ``attn_dp`` group has.
    ``plugins`` default to the installed ones; ``settings`` is whatever else has to be alike on all ranks, as text.
    Raises ``MeshError`` where the process group does not fit the mesh, ``CommunicationError`` where ranks differ.
    """

    def __init__(self, *programs: Program, plugins: Plugins | None = None, settings: str = "") -> None:
        self.mesh = programs[0].mesh
        self.groups: dict[tuple[int, ...], Any] = {}
        self._made: dict[Hashable, Any] = {}
        self.plugins = Plugins()
        if self.mesh.world > 1:
            self.plugins = plugins if plugins is not None else Plugins.installed()
            _check_process_group(self.mesh)
            agree(facts_of(programs, list(self.plugins.found), settings))
            steps = (collective_of(op) for program in programs for op in program.operations)
            for op in steps:
                if op and op.kind != "slice":
                    self._join(_atoms(op))

    def checked(self, forward: Forward) -> Forward:
        """A lowered ``forward`` that refuses ``dp_sizes`` that are not its batch's; on one rank nobody reads them."""
        return checking_sizes(forward, self.mesh) if self.mesh.world > 1 else forward

    def collective(self, op: Communication, *, reuse: bool) -> Collective:
        """The function for one step. Raises ``CompileError`` for a cut that has no sizes."""
        made: Collective = self._once(("run", *_key(op), reuse), lambda: self._collective(op, reuse))
        return made

    def start(self, op: Communication, *, reuse: bool) -> StartedCollective:
        """The same begun, and waited for later."""
        made: StartedCollective = self._once(("start", *_key(op), reuse), lambda: self._start(op, reuse))
        return made

    def reduce_then_norm(self, fused: FusedNorm, *, reuse: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        """Reduction, residual sum and norm behind one call; a plugin may make them one kernel."""
        made = self._plugin(fused.collect, fused.call.leaf, reuse)
        if made:
            return lambda x, residual, batch: made(x, residual)
        reduce, norm = self.collective(fused.collect, reuse=reuse), fused.call.leaf.forward

        def run(x: Tensor, residual: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            out: tuple[Tensor, Tensor] = norm(reduce(x, batch), residual)
            return out

        return run

    def _collective(self, op: Communication, reuse: bool) -> Collective:
        if isinstance(op, Collect) and op.kind == "slice":
            dim, sizes = _number(op, op.step.scatter), sizes_of(op, op.step.scatter, self.mesh)
            part: Collective = collectives.local_slice(dim, sizes, self.mesh.index(op.step.atoms), reuse=reuse)
            return part
        made = self._plugin(op, None, reuse) if isinstance(op, Collect) else None
        return (lambda x, batch: made(x)) if made else waited(self.start(op, reuse=reuse))

    def _start(self, op: Communication, reuse: bool) -> StartedCollective:
        axis, ranks = self.mesh.axis_of(_atoms(op)), _ranks(self.mesh.group(_atoms(op)))
        return named(self._unnamed(op, reuse), f"{op.kind} over {axis} (ranks {ranks})")

    def _unnamed(self, op: Communication, reuse: bool) -> StartedCollective:
        group = self.groups[_atoms(op)]
        if isinstance(op, Dispatch):
            return dispatch(op.routed.ids, op.routed.count, self.mesh.group_size(op.atoms), group)
        if isinstance(op, Combine):
            return combine(group)
        step, me = op.step, self.mesh.index(op.step.atoms)
        if step.kind == "all_reduce":
            return collectives.all_reduce(OPS[str(step.op)], group, reuse=reuse)
        if step.kind == "all_gather":
            return collectives.all_gather(_number(op, step.gather), sizes_of(op, step.gather, self.mesh), group)
        cut, cuts = _number(op, step.scatter), sizes_of(op, step.scatter, self.mesh)
        if step.kind == "reduce_scatter":
            return collectives.reduce_scatter(cut, cuts, OPS[str(step.op)], group, me)
        rows, parts = _number(op, step.gather), sizes_of(op, step.gather, self.mesh)
        return collectives.all_to_all(rows, parts, cut, cuts, group, me)

    def _plugin(self, op: Collect, norm: Any, reuse: bool) -> Callable[..., Any] | None:
        if op.kind != "all_reduce":
            return None
        ranks, group = self.mesh.group(op.step.atoms), self.groups[op.step.atoms]
        return self.plugins.make(CollectiveRequest(op.kind, str(op.step.op), ranks, group, norm, reuse))

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _join(self, atoms: tuple[int, ...]) -> None:
        if atoms in self.groups:
            return
        mesh, timeout = self.mesh, _timeout()
        for ranks in sorted({mesh.group(atoms, rank) for rank in range(mesh.world)}):
            try:
                group = dist.new_group(list(ranks), timeout=timeout)
            except RuntimeError as error:
                raise lost(f"making the group of ranks {_ranks(ranks)}", error) from error
            if mesh.rank in ranks:
                self.groups[atoms] = group


def _timeout() -> timedelta:
    """Of the process group as it was opened; torch would give a new one half an hour whatever the caller said."""
    world: Any = dist.group.WORLD
    kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
    timeout: timedelta = world._get_backend(torch.device(kind)).options._timeout
    return timeout


def _ranks(ranks: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"


def _atoms(op: Communication) -> tuple[int, ...]:
    if isinstance(op, Collect):
        return op.step.atoms
    return op.atoms if isinstance(op, Dispatch) else op.dispatch.atoms


def _number(op: Collect, dim: str | None) -> int:
    return [d.name for d in op.source.dims].index(str(dim))


def _key(op: Communication) -> tuple[Hashable, ...]:
    """What two collectives that do the same agree in."""
    if isinstance(op, Collect):
        return (op.step, op.source.dims, op.source.layout, op.out.layout)
    if isinstance(op, Dispatch):
        return (op.kind, op.routed, op.atoms)
    return (op.kind, op.dispatch.atoms)


def _check_process_group(mesh: Mesh) -> None:
    if not dist.is_initialized():
        raise MeshError(f"a mesh of {mesh.world} ranks needs torch.distributed: call init_process_group first")
    if dist.get_world_size() != mesh.world or dist.get_rank() != mesh.rank:
        raise MeshError(
            f"the mesh is rank {mesh.rank} of {mesh.world}, the process group is rank {dist.get_rank()} of "
            f"{dist.get_world_size()}; start one process for each rank of the mesh"
        )
