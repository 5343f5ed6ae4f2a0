"""The plan of a whole run of alike layers, from that of the three which were compiled.

Where the plan of the third repetition is that of the second, with values, paths and numbers one further on, so is that
of every other one: each pass decides about a step by what comes before and after it, and of two alike neighbours each
has the other there. Where it is not (the layouts that come in have not settled), the model is compiled as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, get_args

from torch import nn

from ..layers.leaf import Leaf
from .program import Operation, Program, Value, call_of, collective_of, reads
from .repeat import NUMBER, Run

STEPS: Final = get_args(Operation)


def unroll(program: Program, runs: Sequence[Run], model: nn.Module) -> bool:
    """Put all repetitions of ``runs`` in the place of those that ``program`` has; False where they are not alike."""
    modules = dict(model.named_modules())
    paths = {module: path for path, module in modules.items()}
    return all(_Unroller(program, run, modules, paths).done() for run in runs)


class Alike:
    """Two stretches of a plan, step by step: ``values`` of the first by id -> of the second; ``texts`` of the second ->
    of the first, and ``leaves`` too."""

    def __init__(self, one: Sequence[Operation], two: Sequence[Operation]) -> None:
        self.values: dict[int, Value] = {}
        self.texts: dict[str, str] = {}
        self.leaves: dict[Leaf, Leaf] = {}
        self.made, later = _made(one), _made(two)
        self.holds = len(one) == len(two) and self._same(tuple(one), tuple(two))
        again = {value.id for value in self.values.values()}
        self.holds &= len(again) == len(self.values) and all(
            (number in self.made and value.id in later) or self.carries(number, value)
            for number, value in self.values.items()
        )

    def carries(self, number: int, value: Value) -> bool:
        """Whether a value from before is the same one in both, or is followed by one that the first stretch makes."""
        return number not in self.made and (value.id == number or value.id in self.made)

    def _same(self, a: Any, b: Any) -> bool:
        same = type(a) is type(b)
        if not same:
            return False
        if isinstance(a, Value):
            same = replace(a, id=b.id, producer=b.producer) == b and self._same(a.producer, b.producer)
            return same and self.values.setdefault(a.id, b) is b
        if isinstance(a, str):
            same = NUMBER.split(a)[::2] == NUMBER.split(b)[::2] and self.texts.setdefault(b, a) == a
        elif isinstance(a, tuple):
            same = len(a) == len(b) and all(map(self._same, a, b))
        elif isinstance(a, STEPS):
            same = all(self._same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
        elif isinstance(a, Leaf):
            same = self.leaves.setdefault(b, a) is a
        else:
            same = a == b
        return same


class _Unroller:
    def __init__(
        self, program: Program, run: Run, modules: Mapping[str, nn.Module], paths: Mapping[nn.Module, str]
    ) -> None:
        self.program, self.run, self.modules, self.paths = program, run, modules, paths
        self.next_id = program.new_id()
        self.now: dict[int, Value] = {}

    def done(self) -> bool:
        """Whether it could be."""
        operations = self.program.operations
        places = {call.path: number for number, op in enumerate(operations) if (call := call_of(op))}
        begins = [places.get(path, -1) for path in self.run.begins]
        if -1 in begins or sorted(begins) != begins:
            return False
        _, second, third, end = begins
        steps = [_copied(op, _same, self._next_for_last, _same) for op in operations[third:end]]
        alike = Alike(operations[second:third], steps)
        late = {value.id for op in operations[end:] for value in reads(op)}
        carried = {number for number, value in alike.values.items() if number != value.id}
        if not alike.holds or late & carried or not self._in_step(alike):
            return False
        copies: list[Operation] = []
        for number in range(3, self.run.times):
            copies += self._repetition(alike, steps, number)
        producers = {v.producer: self.now[v.id].producer for op in steps for v in op.outs}

        def value(of: Value) -> Value:
            """Of the last repetition where it was of the third, also when it has been moved or added to since."""
            if of.id not in self.now:
                addends = of.producer.split(" + ")
                told = " + ".join(producers.get(addend, addend) for addend in addends)
                self.now[of.id] = of if told == of.producer else replace(of, producer=told)
            return self.now[of.id]

        rest = [_copied(op, value, _same, _same) for op in operations[end:]]
        self.program.operations = [*operations[:third], *steps, *copies, *rest]
        given = [value(v) for v in (self.program.result, *self.program.extras) if v]
        self.program.result, self.program.extras = given[0], tuple(given[1:])
        return True

    def _next_for_last(self, text: str) -> str:
        """What converts for the last repetition does so for the next one once the others are there."""
        _, one, two, last = self.run.begins
        return count_on(one, two, 1) if text == last else text

    def _in_step(self, alike: Alike) -> bool:
        """Whether paths are as far on as the repetitions are; the last one's is farther."""
        _, one, two, _ = self.run.begins
        ahead = {0, *_ahead(one, two)}
        return all(set(_ahead(a, b)) <= ahead for b, a in alike.texts.items() if b in self.modules)

    def _repetition(self, alike: Alike, steps: Sequence[Operation], number: int) -> list[Operation]:
        """The repetition ``number`` (from 0), from the third one's ``steps``."""
        before, self.now = self.now, {}
        made = _made(steps)

        def text(of: str) -> str:
            return count_on(alike.texts[of], of, number - 2)

        def value(of: Value) -> Value:
            if of.id in alike.made:  # of the repetition before
                back = alike.values[of.id]
                return before.get(back.id, back)
            if of.id in made and of.id not in self.now:
                self.now[of.id] = replace(of, id=self.next_id, producer=text(of.producer))
                self.next_id += 1
            return self.now.get(of.id, of)

        def leaf(of: Leaf) -> Leaf:
            return self._leaf(alike.leaves[of], of, number - 2)

        return [_copied(op, value, text, leaf) for op in steps]

    def _leaf(self, one: Any, two: Any, more: int) -> Leaf:
        if two not in self.paths:  # several that are one call
            joined: Leaf = type(two)(*(self._leaf(a, b, more) for a, b in zip(one.parts, two.parts, strict=True)))
            return joined
        found = self.modules[count_on(self.paths[one], self.paths[two], more)]
        assert isinstance(found, Leaf)
        return found


def _made(steps: Sequence[Operation]) -> set[int]:
    """Values that are made there, also within a step."""
    inside = (sent.outs for op in steps if (sent := collective_of(op)))
    return {value.id for outs in (*(op.outs for op in steps), *inside) for value in outs}


def _same(part: Any) -> Any:
    return part


def _ahead(one: str, two: str) -> list[int]:
    """How far the numbers of ``two`` are before those of ``one``."""
    return [int(b) - int(a) for a, b in zip(NUMBER.findall(one), NUMBER.findall(two), strict=True)]


def count_on(one: str, two: str, more: int) -> str:
    """The text that is ``more`` steps behind ``two`` where ``two`` follows ``one``: ``layers.3``, ``layers.4``."""
    parts, ahead = NUMBER.split(two), _ahead(one, two)
    parts[1::2] = [str(int(part) + more * by) for part, by in zip(parts[1::2], ahead, strict=True)]
    return "".join(parts)


def _copied(
    thing: Any, value: Callable[[Value], Value], text: Callable[[str], str], leaf: Callable[[Leaf], Leaf]
) -> Any:
    """A step, or a part of one, with other values, texts and leaves."""
    if isinstance(thing, Value):
        return value(thing)
    if isinstance(thing, str):
        return text(thing)
    if isinstance(thing, Leaf):
        return leaf(thing)
    if isinstance(thing, tuple):
        return tuple(_copied(part, value, text, leaf) for part in thing)
    if isinstance(thing, STEPS):
        return type(thing)(*(_copied(getattr(thing, f.name), value, text, leaf) for f in fields(thing)))
    return thing
