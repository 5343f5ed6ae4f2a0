"""Rewrites of the plan that save a pass over memory or a call."""

from ..layers.mlp import MLP
from ..layers.moe import Experts, ExpertsWithShared
from ..layers.norm import AddRMSNorm
from .program import Add, Call, Collect, FusedNorm, Operation, Program


def fuse(program: Program) -> None:
    """Join shared and routed experts, then reductions and the residual norms that follow them."""
    _fuse_shared_experts(program)
    _fuse_norms(program)


def _fuse_shared_experts(program: Program) -> None:
    """A sum of routed experts and an MLP of the same input, both needed nowhere else, is one call."""
    readers = program.readers()
    calls = {op.outs[0].id: op for op in program.operations if isinstance(op, Call)}
    swapped: dict[int, Call] = {}
    gone: set[int] = set()
    for op in program.operations:
        if not isinstance(op, Add):
            continue
        routed, shared = calls.get(op.left.id), calls.get(op.right.id)
        if not (routed and shared and isinstance(routed.leaf, Experts) and isinstance(shared.leaf, MLP)):
            continue
        alone = all(len(readers[value.id]) == 1 for value in (op.left, op.right))
        if alone and routed.args[0] is shared.args[0]:
            swapped[id(op)] = Call(routed.path, ExpertsWithShared(routed.leaf, shared.leaf), routed.args, (op.out,))
            gone |= {id(routed), id(shared)}
    program.operations = [swapped.get(id(op), op) for op in program.operations if id(op) not in gone]


def _fuse_norms(program: Program) -> None:
    """An all-reduce or reduce-scatter whose only reader is a residual norm is one step with it."""
    readers = program.readers()
    fused: dict[int, FusedNorm] = {}
    gone: set[int] = set()
    for op in program.operations:
        if isinstance(op, Collect) and op.kind in ("all_reduce", "reduce_scatter"):
            users = readers.get(op.out.id, [])
            if len(users) == 1 and _is_residual_norm(users[0], op) and not program.gives(op.out):
                call = users[0]
                assert isinstance(call, Call)
                fused[id(call)] = FusedNorm(op, call)
                gone.add(id(op))
    program.operations = [fused.get(id(op), op) for op in program.operations if id(op) not in gone]


def _is_residual_norm(op: Operation, collect: Collect) -> bool:
    """Whether ``op`` is a residual norm that adds what ``collect`` reduces to its residual."""
    if not isinstance(op, Call) or not isinstance(op.leaf, AddRMSNorm):
        return False
    return op.args[0] is collect.out and op.args[1] is not collect.out
