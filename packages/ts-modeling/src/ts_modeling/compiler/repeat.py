"""Layers that are alike: found in the traced graph, where three of each run and the last are enough to compile.

Windows of the graph, one a layer, are alike where the compiler would see the same: leaves of equal types and
boundaries, called with the same values of this window and the one before it, and with texts and constants whose numbers
count on (``layers.3``, ``cache[3]``). A run may have a period of several windows. Its plan comes from ``unroll``.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import fx, nn

from ..layers.leaf import Leaf

KEPT: Final = 3
"""Repetitions that are compiled: one that what comes before is another for, and two to compare."""
LONGEST: Final = 8
"""Windows of one repetition, at most."""
NUMBER: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """``times`` alike repetitions and one more, which stays by itself; ``begins`` are the paths of the first module of
    each that is kept, and of that one."""

    begins: tuple[str, ...]
    times: int


def shorten(graph: fx.Graph, model: nn.Module) -> tuple[fx.Graph, tuple[Run, ...]]:
    """``graph`` with ``KEPT`` repetitions of each run, and the runs; the graph itself where there are none."""
    windows = _Windows(graph, model)
    runs: list[Run] = []
    twins: dict[fx.Node, fx.Node] = {}
    at = 0
    while at < len(windows):
        period, times = windows.repetition(at)
        if times <= KEPT:
            at += 1
            continue
        begins = [windows.nodes[windows.starts[at + period * i]] for i in range(KEPT)]
        at += period * times
        begins.append(windows.nodes[windows.starts[at]])
        runs.append(Run(tuple(str(node.target) for node in begins), times))
        first, second, end = (windows.number[n] for n in (begins[0], begins[1], begins[-1]))
        for number in range(first + KEPT * (second - first), end):
            back = (number - first) // (second - first) - KEPT + 1
            twins[windows.nodes[number]] = windows.nodes[number - back * (second - first)]
    return (_without(graph, twins), tuple(runs)) if runs else (graph, ())


def _without(graph: fx.Graph, twins: Mapping[fx.Node, fx.Node]) -> fx.Graph:
    """A copy that reads the twin of each node that is left out."""
    out, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        copies[node] = copies[twins[node]] if node in twins else out.node_copy(node, copies.__getitem__)
    return out


class _Windows:
    """The steps of a graph (not the reading of inputs), cut where the next layer begins; the last window is no layer's
    but what the result is made of."""

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.inputs: set[fx.Node] = set()
        self.nodes: list[fx.Node] = []
        for node in graph.nodes:
            if _reads_input(node, self.inputs):
                self.inputs.add(node)
            elif node.op != "output":
                self.nodes.append(node)
        self.number = {node: number for number, node in enumerate(self.nodes)}
        self.starts = [0]
        here = None
        for number, node in enumerate(self.nodes):
            if node.op == "call_module" and _layer(str(node.target)) != here:
                here = _layer(str(node.target))
                self.starts += [number] if number else []
        self.forms: list[Any] = []
        self.found = [self._window(w) for w in range(len(self))]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def repetition(self, at: int) -> tuple[int, int]:
        """Period and number of the repetitions that begin with window ``at``, those that leave out the most; the last
        one is not counted, for what follows it is another thing."""
        every = [(period, self._times(at, period)) for period in range(1, LONGEST + 1)]
        return max(every, key=lambda found: found[0] * (found[1] - KEPT))

    def _times(self, at: int, period: int) -> int:
        last = at + period
        while last < len(self) and self._goes_on(last, period, first=last - period < at + period):
            last += 1
        return (last - at) // period - 1

    def _goes_on(self, w: int, period: int, *, first: bool) -> bool:
        """Whether window ``w`` is like the one a period before, its numbers as far on as that one's were."""
        (form, numbers), (form_before, before) = self.found[w], self.found[w - period]
        if form is None or form != form_before:
            return False
        earlier = [2 * b - n for b, n in zip(before, numbers, strict=True)]
        return first or earlier == self.found[w - 2 * period][1]

    def _window(self, w: int) -> tuple[int | None, list[int]]:
        """Number of its form among those seen, None for a window that is read from afar; and its own numbers."""
        start, end = self.starts[w], self.starts[w + 1]
        after = [*self.starts[w + 2 : w + 3], len(self.nodes)][0]
        readers = (self.number.get(user, after) for node in self.nodes[start:end] for user in node.users)
        if any(reader >= after for reader in readers):
            return None, []
        numbers: list[int] = []
        form = _Form(self, start, self.starts[max(w - 1, 0)], numbers)
        told = [form.node(node) for node in self.nodes[start:end]]
        if told not in self.forms:
            self.forms.append(told)
        return self.forms.index(told), numbers


class _Form:
    """What the compiler sees of a window; numbers that may count on are noted apart."""

    def __init__(self, windows: _Windows, start: int, before: int, numbers: list[int]) -> None:
        self.windows, self.start, self.before, self.numbers = windows, start, before, numbers

    def node(self, node: fx.Node) -> Any:
        target: Any = node.target
        if node.op == "call_module":
            leaf = self.windows.modules[str(target)]
            assert isinstance(leaf, Leaf)
            target = (type(leaf), leaf.memory, getattr(leaf, "boundary", None), self.text(str(target)))
        return node.op, target, self.of(node.args), self.of(node.kwargs)

    def text(self, text: str) -> tuple[str, ...]:
        parts = NUMBER.split(text)
        self.numbers += map(int, parts[1::2])
        return tuple(parts[::2])

    def value(self, node: fx.Node) -> Any:
        number = self.windows.number.get(node)
        if number is None:
            return node.target if node.op == "placeholder" else ("input", node.target, self.of(node.args))
        return ("near", number - self.start) if number >= self.before else ("far", number)

    def of(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.value(arg)
        if type(arg) is int:
            self.numbers.append(arg)
            return "a number"
        if isinstance(arg, Sequence) and not isinstance(arg, str):
            return [type(arg).__name__, *map(self.of, arg)]
        if isinstance(arg, Mapping):
            return [(key, self.of(part)) for key, part in arg.items()]
        if isinstance(arg, slice):
            return ["slice", *map(self.of, (arg.start, arg.stop, arg.step))]
        return type(arg), repr(arg)


def _reads_input(node: fx.Node, inputs: set[fx.Node]) -> bool:
    reads = node.op == "call_function" and node.target in (getattr, operator.getitem)
    return node.op == "placeholder" or (reads and node.args[0] in inputs)


def _layer(path: str) -> str | None:
    """``layers.3`` of ``layers.3.mlp.router``; None for a module outside of layers."""
    found = NUMBER.search(path)
    return path[: found.end()] if found and "." in path else None
