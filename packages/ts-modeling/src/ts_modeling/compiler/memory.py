"""Which collectives may write to the memory of what they send.

A value that is dead may still share its memory with one that is not: a module may return its argument, or a part of it
(a cast to the type that it has), or something that it keeps. So values are put into pools that may share memory, by
what the modules declare (``Leaf.memory``), and a collective may write where nothing of the pool is read any more.
"""

from dataclasses import dataclass, field

from .program import Add, Collect, Operation, Program, Start, Value, Wait, call_of, collective_of, reads


@dataclass(eq=False)
class _Pool:
    """Values that may share memory; ``foreign`` where something outside of the plan may hold it too."""

    values: list[Value] = field(default_factory=list)
    foreign: bool = False


def writable(program: Program) -> set[int]:
    """``id`` of each operation whose collective may write to its first argument."""
    last = {value.id: index for index, op in enumerate(program.operations) for value in reads(op)}
    last |= {value.id: len(program.operations) for value in (program.result, *program.extras) if value}
    pools = _Pools()
    out: set[int] = set()
    for index, op in enumerate(program.operations):
        if collective_of(op):
            pool = pools.of(reads(op)[0])
            if not pool.foreign and all(last.get(v.id, -1) <= index for v in pool.values):
                out.add(id(op))
        pools.assign(op, free=id(op) in out)
    return out


class _Pools:
    def __init__(self) -> None:
        self.pools: dict[int, _Pool] = {}

    def of(self, value: Value) -> _Pool:
        """The pool of ``value``; an input is the caller's."""
        return self.pools.setdefault(value.id, _Pool([value], foreign=value.expr is not None))

    def assign(self, op: Operation, *, free: bool) -> None:
        """Say where the results of ``op`` are; ``free``: its collective may have made them of its argument's memory."""
        sent, call = collective_of(op), call_of(op)
        if isinstance(op, Wait):
            return  # said when it was begun
        if sent:
            again = isinstance(sent, Collect) and sent.kind in ("all_reduce", "slice")
            self._join(sent.outs, reads(op)[:1] if free and again else ())
        if isinstance(op, Start):
            self._join(op.outs, ())
        if call:
            of_arguments = call.leaf.memory != "own"
            self._join(call.outs, tuple(a for a in call.args if isinstance(a, Value)) if of_arguments else ())
            self.of(call.outs[0]).foreign |= call.leaf.memory == "any"
        if isinstance(op, Add):
            self._join(op.outs, ())

    def _join(self, values: tuple[Value, ...], others: tuple[Value, ...]) -> None:
        """One pool for all of them."""
        every = {id(pool): pool for pool in map(self.of, (*values, *others))}.values()
        joined = _Pool([v for pool in every for v in pool.values], any(pool.foreign for pool in every))
        for value in joined.values:
            self.pools[value.id] = joined
