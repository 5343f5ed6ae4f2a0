"""Every policy that applies to a model and mesh, compiled; which plan runs depends on how many tokens a step has.

What a plan costs is a line over the tokens: the bytes of its collectives for each token, above the time that they take
to begin. The cheapest plans are those of the lower envelope of these lines: few and fat collectives for a handful of
tokens, those that send the least for many.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from ..errors import PlacementError
from ..layers.leaf import Leaf
from ..placement import Gives, Mesh, Spec
from .cost import Costs, start_bytes, token_bytes
from .fuse import fuse
from .hoist import hoist_gathers
from .overlap import overlap
from .policy import Policy
from .program import Program
from .propagate import propagate
from .repeat import Run, shorten
from .routing import may_dispatch
from .trace import trace
from .unroll import unroll


@dataclass(frozen=True)
class Plans:
    """Programs by the number of tokens of the whole batch from which on each is the cheapest, beginning with 0."""

    programs: tuple[Program, ...]
    since: tuple[int, ...]

    def at(self, tokens: int) -> Program:
        """The cheapest program for a step of ``tokens``."""
        return [p for p, since in zip(self.programs, self.since, strict=True) if since <= tokens][-1]


@dataclass(frozen=True)
class Traced:
    """A model's graph, the one that is ``short`` of alike layers, and the annotations of its ends."""

    model: nn.Module
    graph: fx.Graph
    short: fx.Graph
    runs: tuple[Run, ...]
    inputs: Mapping[str, Spec]
    gives: Gives

    @classmethod
    def of(cls, model: nn.Module, inputs: Mapping[str, Spec], gives: Gives) -> "Traced":
        """Trace ``model``. Raises ``CompileError``."""
        graph = trace(model)
        return cls(model, graph, *shorten(graph, model), inputs, gives)


def plans(traced: Traced, mesh: Mesh, costs: Costs) -> Plans:
    """The plans worth running. Raises ``CompileError`` where the model has none."""
    if costs.only is not None:
        return Plans((compiled_for(traced, mesh, costs.only, costs.itemsize),), (0,))
    candidates = [compiled_for(traced, mesh, Policy(), costs.itemsize)]
    for policy in list(policies(traced.model, mesh))[1:]:
        try:
            candidates.append(compiled_for(traced, mesh, policy, costs.itemsize))
        except PlacementError:
            continue  # a model may not allow it, such as one that takes the largest of something
    lines = [(token_bytes(p, costs.itemsize), start_bytes(p, costs)) for p in candidates]
    since, chosen = zip(*envelope(lines), strict=True)
    return Plans(tuple(candidates[i] for i in chosen), since)


def envelope(lines: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Of lines (slope, height) the lowest ones: from which whole number on, and which; of equal ones the first."""
    out: list[tuple[int, int]] = []
    since = 0
    while True:
        x = max(since, 1)
        here = min(range(len(lines)), key=lambda i: lines[i][0] * x + lines[i][1])
        out.append((since, here))
        slope, height = lines[here]
        crossings = [int((h - height) / (slope - s)) + 1 for s, h in lines if s < slope]
        if not crossings:
            return out
        since = max(x + 1, min(crossings))


def compiled_for(traced: Traced, mesh: Mesh, policy: Policy, itemsize: int) -> Program:
    """The plan under one policy, for activations of ``itemsize``. Raises ``CompileError``."""
    program = _planned(traced, traced.short, mesh, policy, itemsize)
    if unroll(program, traced.runs, traced.model):
        return program
    return _planned(traced, traced.graph, mesh, policy, itemsize)


def _planned(traced: Traced, graph: fx.Graph, mesh: Mesh, policy: Policy, itemsize: int) -> Program:
    program = propagate(graph, traced.model, mesh, traced.inputs, traced.gives, policy=policy)
    hoist_gathers(program, itemsize)
    fuse(program)
    overlap(program)
    program.policy = policy
    return program


def policies(model: nn.Module, mesh: Mesh) -> Iterator[Policy]:
    """Those that can make a difference, the simplest first."""
    dispatches = any(may_dispatch(m.boundary, mesh) for m in model.modules() if isinstance(m, Leaf))
    for dispatch in (False, True)[: 1 + dispatches]:
        for cut_tokens in (False, True)[: 1 + (mesh.world > 1)]:
            yield Policy(cut_tokens=cut_tokens, dispatch=dispatch)
