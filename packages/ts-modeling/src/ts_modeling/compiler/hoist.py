"""Gather before a module that every rank may as well run on all rows, where that sends less.

A router that runs on this rank's tokens gives ids that are then gathered for the experts, as the tokens are. Running it
on the gathered tokens saves two collectives. Under ``cut_tokens`` the same goes for the norm of a query latent, whose
source is gathered for attention anyway. Weights are read as often as before; the rows are more, the modules cheap.
A module whose annotation names an axis that is gathered over stays where it is: it gets what is written there.
"""

from collections.abc import Iterable
from dataclasses import replace

from ..placement import TOKENS, Shard
from .cost import messages, wire_bytes
from .edges import named_atoms
from .program import Call, Collect, Operation, Program, Value


def hoist_gathers(program: Program, itemsize: int) -> None:
    """Apply the rewrite wherever it saves something, readers before what they read; activations have ``itemsize``."""
    _Hoister(program, itemsize).run()


class _Hoister:
    def __init__(self, program: Program, itemsize: int) -> None:
        self.program, self.itemsize = program, itemsize
        self.readers = program.readers()
        self.next_id = program.new_id()
        self.place = {id(op): float(number) for number, op in enumerate(program.operations)}
        gathers = [op for op in program.operations if isinstance(op, Collect) and _is_gather(op)]
        self.gathers = {(op.source.id, op.step.atoms): op for op in gathers}
        self.gone: set[int] = set()
        self.moved: set[int] = set()
        self.instead: dict[int, list[Operation]] = {}

    def run(self) -> None:
        operations = self.program.operations
        for op in reversed(operations):
            if isinstance(op, Call):
                self._try(op)
        self.program.operations = [
            new
            for op in operations
            if id(op) not in self.moved
            for new in self.instead.get(id(op), [op])
            if id(new) not in self.gone
        ]

    def _try(self, call: Call) -> None:
        after = self._gathers_of_all(call)
        if not after:
            return
        step, layout = after[0].step, after[0].out.layout
        sources = {a.id: a for a in call.args if isinstance(a, Value)}
        alike = all(g.step == step and g.out.layout == layout for g in after)
        named = named_atoms(call.leaf.boundary, self.program.mesh)
        if not alike or named & set(step.atoms) or not _free(call, sources.values(), step.atoms):
            return
        have = {i: g for i in sources if (g := self.gathers.get((i, step.atoms))) and g.out.layout == layout}
        new = {i: self._gather(v, after[0]) for i, v in sources.items() if i not in have}
        if self._weight(new.values()) < self._weight(after):
            self._rewrite(call, have | new, after)

    def _gathers_of_all(self, call: Call) -> list[Collect]:
        """The gathers that read what ``call`` gives, if nothing else does and each result has one."""
        out: list[Collect] = []
        for value in call.outs:
            users = [op for op in self.readers.get(value.id, []) if id(op) not in self.gone]
            if len(users) != 1 or self.program.gives(value):
                return []
            out += [op for op in users if isinstance(op, Collect) and _is_gather(op)]
        return out if len(out) == len(call.outs) else []

    def _gather(self, value: Value, like: Collect) -> Collect:
        self.next_id += 1
        out = replace(value, id=self.next_id, layout=like.out.layout, expr=None)
        return Collect(like.step, value, out, like.source.producer)

    def _weight(self, ops: Iterable[Collect]) -> tuple[float, int]:
        """Bytes first, then rounds."""
        listed = list(ops)
        return sum(wire_bytes(op, self.program, self.itemsize) for op in listed), sum(map(messages, listed))

    def _rewrite(self, call: Call, before: dict[int, Collect], after: list[Collect]) -> None:
        """Put the gathers ``before`` in front of the call, which now gives what those ``after`` gave."""
        args = tuple(before[a.id].out if isinstance(a, Value) else a for a in call.args)
        outs = tuple(next(g.out for g in after if g.source is value) for value in call.outs)
        self.gone |= {id(g) for g in after}
        here = self.place[id(call)]
        moved = [g for g in before.values() if self.place.get(id(g), here + 1) > here]
        self.moved |= {id(g) for g in moved}
        self.place |= {id(g): here for g in moved}
        self.instead[id(call)] = [*moved, Call(call.path, call.leaf, args, outs)]
        for value_id, gather in before.items():
            self.gathers[value_id, gather.step.atoms] = gather
            self.readers[value_id] = [op for op in self.readers[value_id] if op is not call and op is not gather]
            self.readers[value_id].append(gather)


def _is_gather(op: Operation) -> bool:
    return isinstance(op, Collect) and op.kind == "all_gather" and op.step.gather == TOKENS.name


def _free(call: Call, sources: Iterable[Value], atoms: tuple[int, ...]) -> bool:
    """Whether the call takes and gives tokens cut alike, so that it may run on more rows; caches and such may not."""
    values = [*sources, *call.outs]
    layout = call.outs[0].layout
    alike = all(v.dims[0] == TOKENS and v.layout == layout for v in values)
    placed = all(isinstance(a, Value) for a in call.args)
    return alike and placed and all(layout[a] == Shard(TOKENS.name) for a in atoms)
