"""Compute one branch of a sum while the other one communicates: a shared expert beside the dispatch of the routed ones.

The first collective of a branch is begun, the modules of the other branch run, and only then is it waited for. The two
branches of a sum may run in either order, so their modules must not write to what they take.

A sum may itself be a branch of another one. What one sum has moved stays where it is; a collective that is begun early
for an inner sum has the modules of the outer one beside it as well.
"""

from .program import Add, Call, Communication, Operation, Program, Start, Value, Wait, reads


def overlap(program: Program) -> None:
    """Apply this to every sum of two branches that have something to overlap."""
    plan = _Plan(program)
    for add in [op for op in program.operations if isinstance(op, Add)]:
        if not plan.begin_early(add.left, add.right, add):
            plan.begin_early(add.right, add.left, add)
    plan.apply()


class _Plan:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.maker = {value.id: op for op in program.operations for value in op.outs}
        self.readers = program.readers()
        self.number = {id(op): number for number, op in enumerate(program.operations)}
        self.place = dict(self.number)
        self.next_id = program.new_id()
        self.moved: set[int] = set()
        self.instead: dict[int, list[Operation]] = {}

    def begin_early(self, one: Value, other: Value, add: Add) -> bool:
        """Run the modules of ``other`` while the first collective of ``one`` is under way, if there are both."""
        sending, beside = self._branch(one, add), _up_to_last_call(self._branch(other, add))
        sender = next((op for op in sending if isinstance(op, Communication) and _moves(op)), None)
        if sender is None or not beside or not self._may_move(sender, sending, beside):
            return False
        *before, wait = self.instead.get(id(sender)) or self._begun(sender)
        self.instead[id(sender)] = [*before, *beside, wait]
        self.moved |= {id(op) for op in beside}
        self.place |= {id(op): self.place[id(sender)] for op in beside}
        return True

    def _begun(self, sender: Communication) -> list[Operation]:
        start = Start(sender, Value(self.next_id, (), sender.outs[0].layout, sender.consumer, "pending"))
        self.next_id += 1
        return [start, Wait(start)]

    def _may_move(self, sender: Communication, sending: list[Operation], beside: list[Operation]) -> bool:
        """Whether the branches have nothing in common, as those of ``y + y`` do, and no other sum has moved them."""
        apart = not {id(op) for op in sending} & {id(op) for op in beside}
        as_they_were = not any(id(op) in self.moved or id(op) in self.instead for op in beside)
        unmoved = id(sender) not in self.moved
        return apart and as_they_were and unmoved and self._may_stand_at(self.place[id(sender)], beside)

    def _may_stand_at(self, place: int, ops: list[Operation]) -> bool:
        """Whether all that ``ops`` read is there before ``place``, and nothing before it reads what they make."""
        made = {value.id for op in ops for value in op.outs}
        needed = [self.maker[v.id] for op in ops for v in reads(op) if v.id in self.maker and v.id not in made]
        inside = {id(op) for op in ops}
        users = [user for i in made for user in self.readers.get(i, []) if id(user) not in inside]
        return all(self.place[id(op)] < place for op in needed) and all(self.place[id(op)] > place for op in users)

    def apply(self) -> None:
        """Reorder the program."""
        self.program.operations = [
            new for op in self.program.operations if id(op) not in self.moved for new in self.instead.get(id(op), [op])
        ]

    def _branch(self, value: Value, add: Add) -> list[Operation]:
        """What is computed for ``value``, which only ``add`` reads, and for nothing else; in program order."""
        last = self.maker.get(value.id)
        if last is None or any(user is not add for out in last.outs for user in self.readers.get(out.id, [])):
            return []
        inside = {id(last)}
        branch = [last]
        for op in reversed(self.program.operations[: self.number[id(last)]]):
            users = [user for out in op.outs for user in self.readers.get(out.id, [])]
            if users and all(id(user) in inside for user in users):
                inside.add(id(op))
                branch.append(op)
        return branch[::-1]


def _moves(op: Communication) -> bool:
    return op.kind != "slice"


def _up_to_last_call(branch: list[Operation]) -> list[Operation]:
    """The branch without the collectives at its end; empty where it has no modules."""
    last = max((number for number, op in enumerate(branch) if isinstance(op, Call)), default=-1)
    return branch[: last + 1]
