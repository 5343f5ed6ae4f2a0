"""Walk the traced graph, give every value a layout, and insert a collective where an edge needs one.

At a module boundary each mesh atom falls under one of two rules. An atom of an axis that the module's annotation names
gets exactly what is written there. On any other atom the module is free: batch dimensions stay cut as they come (all
inputs alike), a Partial is resolved (to the whole, or under ``cut_tokens`` to a cut of the tokens), anything else is
made whole. A free module that takes something opaque may count rows in it, so there only the caller's own cut stays.
A linear module lets a pending sum through where all its placed inputs are pending sums.
"""

import operator
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from torch import fx, nn

from ..errors import CompileError
from ..layers.leaf import Leaf
from ..placement import (
    BATCH_DIMS,
    REPLICATE,
    TOKENS,
    Boundary,
    Dim,
    Gives,
    Mesh,
    Opaque,
    Partial,
    Placement,
    Shard,
    Spec,
)
from .annotations import check_arity, check_boundary, check_spec, check_whole
from .edges import Edges, named_atoms
from .policy import Policy
from .program import Add, Arg, Call, Dispatch, Program, Value
from .routing import before_dispatch, check_routed, combine, dispatch, dispatched, may_dispatch
from .trace import told, where

Result = Arg | tuple[Value, ...]


def propagate(
    graph: fx.Graph,
    model: nn.Module,
    mesh: Mesh,
    inputs: Mapping[str, Spec],
    gives: Gives,
    *,
    policy: Policy | None = None,
    check_sizes: bool = True,
) -> Program:
    """Compile ``graph`` for ``mesh``; ``inputs`` annotates expressions such as ``batch.tokens``, ``gives`` the result,
    or each of several.

    ``check_sizes`` False leaves out whether dimensions divide, to check annotations on a mesh that nobody runs.
    Raises ``CompileError`` naming the module, the edge, both placements and the likely fix.
    """
    edges = Edges(mesh, check_sizes=check_sizes)
    if not isinstance(inputs, Mapping):
        raise CompileError(
            f"the model's inputs are {inputs!r}; give Specs by name, as {{'batch.tokens': Spec(TOKENS)}}"
        )
    for name, spec in inputs.items():
        check_spec(f"input {name}", spec)
    several = gives if isinstance(gives, tuple) else (gives,)
    for spec in several:
        check_spec("output", spec)
    return _Propagator(model, edges, inputs, several, policy or Policy()).run(graph)


class _Propagator:
    def __init__(
        self, model: nn.Module, edges: Edges, inputs: Mapping[str, Spec], gives: tuple[Spec, ...], policy: Policy
    ) -> None:
        self.modules = dict(model.named_modules())
        self.edges, self.mesh, self.program = edges, edges.mesh, edges.program
        self.inputs, self.gives, self.policy = inputs, gives, policy
        self.results: dict[fx.Node, Result] = {}
        self.read: dict[str, Value] = {}

    def run(self, graph: fx.Graph) -> Program:
        for node in graph.nodes:
            if node.op == "output":
                self._output(node)
            else:
                self.results[node] = self._node(node)
        return self.program

    def _node(self, node: fx.Node) -> Result:
        if node.op == "placeholder":
            if not self.program.parameters and node.name in self.inputs:
                raise CompileError(
                    f"input {node.name}: the first argument of the model is the batch, which tells collectives the "
                    f"tokens of each rank, so it is no tensor; read one from it (batch.{node.name}), or pass it later"
                )
            self.program.parameters += (node.name,)
            return self._input(node.name)
        if node.op == "call_module":
            return self._call(node)
        if node.op == "call_function" and node.target is getattr:
            return self._input(f"{self._text(node)}.{node.args[1]}")
        if node.op == "call_function" and node.target is operator.getitem:
            return self._item(node)
        if node.op == "call_function" and node.target is operator.add:
            return self._add(node)
        if node.op == "get_attr":
            raise CompileError(
                f"{told(node)}: is read between modules; weights and buffers belong to leaves: take one of "
                "ts_modeling.layers, or write a Leaf with an annotation that has it"
            )
        raise CompileError(
            f"{where(node)}: the model computes {told(node)} between modules; only module calls, + and reading inputs "
            "are compiled: move it into an annotated module"
        )

    def _text(self, node: fx.Node) -> str:
        base = self.results[_node_of(node.args[0], where(node))]
        if not isinstance(base, str):
            raise CompileError(f"{where(node)}: reads an attribute of a tensor; move it into an annotated module")
        return base

    def _input(self, expr: str) -> Result:
        """The placed input ``expr``, one value however often it is read; what has no placement is left as written."""
        spec = self.inputs.get(expr)
        if spec is None:
            return expr
        if expr not in self.read:
            layout, hint = self.edges.required(spec, expr), expr.rpartition(".")[2]
            self.read[expr] = self.edges.value(
                f"input {expr}", spec.dims, layout, hint, expr=expr, itemsize=spec.itemsize
            )
        return self.read[expr]

    def _item(self, node: fx.Node) -> Result:
        base, index = self.results[_node_of(node.args[0], where(node))], node.args[1]
        if isinstance(base, str):
            return f"{base}[{self._written(index, where(node))}]"
        several = base if isinstance(base, tuple) else (base,)
        if isinstance(base, tuple) and isinstance(index, int) and index < len(base):
            return base[index]
        raise CompileError(
            f"{where(node)}: reads [{index}] of what {several[0].producer} gives, which by its annotation is "
            f"{_shown(base)}; give as many Specs in its gives as it has results, or index within an annotated module"
        )

    def _call(self, node: fx.Node) -> Result:
        path = str(node.target)
        leaf = self.modules[path]
        assert isinstance(leaf, Leaf)
        check_boundary(path, leaf)
        takes = leaf.boundary.takes
        if node.kwargs or len(node.args) != len(takes):
            raise CompileError(
                f"{path}: called with {len(node.args)} positional and {len(node.kwargs)} named arguments, but its "
                f"boundary takes {len(takes)} positional ones: make the call and the annotation agree"
            )
        check_arity(path, leaf)
        check_routed(path, leaf.boundary, self.mesh, check_sizes=self.edges.check_sizes)
        args: list[Arg] = [self._argument(a, spec, path) for a, spec in zip(node.args, takes, strict=True)]
        sources = [value.producer for value, _ in _placed(args, leaf.boundary)]
        if not (self.policy.dispatch and may_dispatch(leaf.boundary, self.mesh)):
            outs = self._placed_call(path, leaf, leaf.boundary, args)
            check_whole(path, leaf.boundary, sources)
            return outs if len(outs) > 1 else outs[0]
        sent = self._dispatch(path, leaf.boundary, args)
        outs = self._placed_call(path, leaf, dispatched(leaf.boundary), list(sent.outs[:-1]))
        return combine(self.edges, sent, outs[0])

    def _placed_call(self, path: str, leaf: Leaf, boundary: Boundary, args: list[Arg]) -> tuple[Value, ...]:
        """Bring the arguments where ``boundary`` wants them, call, and say where the results are."""
        placed = _placed(args, boundary)
        free = self._free(boundary, placed)
        batches: dict[str | None, Dim] = {s.batch: v.dims[0] for v, s in placed if s.batch}
        for i, (arg, spec) in enumerate(zip(args, boundary.takes, strict=True)):
            if isinstance(arg, Value) and isinstance(spec, Spec):
                want = self.edges.required(_of_batch(spec, batches), path, free=free)
                args[i] = self.edges.convert(arg, want, path)
        names = boundary.names or tuple(spec.dims[-1].name for spec in boundary.gives)
        specs = [_of_batch(spec, batches) for spec in boundary.gives]
        outs = tuple(
            self.edges.value(path, spec.dims, self.edges.required(spec, path, free=free), name, itemsize=spec.itemsize)
            for spec, name in zip(specs, names, strict=True)
        )
        self.program.operations.append(Call(path, leaf, tuple(args), outs))
        return outs

    def _dispatch(self, path: str, boundary: Boundary, args: list[Arg]) -> Dispatch:
        """Cut the arguments over the routed axis, and send their rows to where they have work."""
        assert boundary.routed
        placed = _placed(args, boundary)
        free = self._free(boundary, placed)
        sources = []
        for value, spec in placed:
            cut = before_dispatch(_of_batch(spec, {spec.batch: value.dims[0]}), boundary.routed)
            sources.append(self.edges.convert(value, self.edges.required(cut, path, free=free), path))
        return dispatch(self.edges, boundary.routed, tuple(sources), path)

    def _argument(self, arg: Any, spec: Spec | Opaque, path: str) -> Arg:
        result = self.results[arg] if isinstance(arg, fx.Node) else self._written(arg, path)
        if isinstance(spec, Opaque):
            if isinstance(result, tuple):
                raise CompileError(f"{path}: is passed {_told(result)}; unpack it, annotate each")
            return result
        if isinstance(result, tuple):
            raise CompileError(
                f"{result[0].producer} -> {path}: gives {_shown(result)} but the next module takes the one {spec}; "
                f"unpack them, or give one Spec in the gives of {result[0].producer}"
            )
        if result == "None":
            raise CompileError(f"{path}: is passed None, its boundary takes {spec}; does what comes before it return?")
        if not isinstance(result, Value):
            raise CompileError(
                f"{path}: its boundary takes {spec} but the argument has no placement ({_shown(result)}); annotate the "
                "input of the model, or declare the argument OPAQUE"
            )
        if not _same_dims(result.dims, spec.dims):
            raise CompileError(
                f"{result.producer} -> {path}: gives [{_dims(result.dims)}] but the next module takes "
                f"[{_dims(spec.dims)}]; {_unlike(result.dims, spec.dims)}: names and sizes of the two annotations "
                "must agree"
            )
        return result

    def _written(self, arg: Any, name: str) -> str:
        """Source text of an argument without placement: inputs, constants, and lists and such of them."""
        if isinstance(arg, fx.Node):
            result = self.results[arg]
            if isinstance(result, str):
                return result
            raise CompileError(f"{name}: is passed {_shown(result)} inside of a list or an index; pass it by itself")
        text = _source(arg, lambda part: self._written(part, name))
        if text is None:
            raise CompileError(
                f"{name}: is passed {arg!r}, which cannot be written down; give it to the module when it is made, "
                "or read it from the batch"
            )
        return text

    def _free(self, boundary: Boundary, placed: list[tuple[Value, Spec]]) -> dict[int, Placement]:
        """Placements on the atoms that the leaf does not mention: how the batch dimension is cut there, or Partial."""
        named = named_atoms(boundary, self.mesh)
        counts_rows = any(isinstance(s, Opaque) for s in boundary.takes)
        values = [value for value, _ in placed]
        atoms = [a for a in range(len(self.mesh.atom_sizes)) if values and a not in named]
        found = {a: self._free_on(a, values, linear=boundary.linear, counts_rows=counts_rows) for a in atoms}
        return {a: placement for a, placement in found.items() if placement}

    def _free_on(self, atom: int, values: list[Value], *, linear: bool, counts_rows: bool) -> Placement | None:
        """What becomes of the batch, or of pending sums, on an atom that the leaf does not mention; None: the whole."""
        haves = [value.layout[atom] for value in values]
        if linear and all(have == Partial("sum") for have in haves):
            return haves[0]  # of a value and addends, each rank's share of the result would hold the value
        batch_cut = next((h for h in haves if isinstance(h, Shard) and h.dim in BATCH_DIMS), None)
        if counts_rows:
            return batch_cut if atom in self.mesh.atoms("attn_dp") else None
        cuts = any(self._cuts(value, have) for value, have in zip(values, haves, strict=True))
        return batch_cut or (Shard(TOKENS.name) if cuts else None)

    def _cuts(self, value: Value, have: Placement) -> bool:
        """Whether to resolve ``have`` by cutting the tokens."""
        return self.policy.cut_tokens and isinstance(have, Partial) and value.dims[0] == TOKENS

    def _add(self, node: fx.Node) -> Value:
        name = where(node)
        left, right = (self.results[_node_of(a, name)] for a in node.args)
        if not isinstance(left, Value) or not isinstance(right, Value):
            raise CompileError(f"{name}: + of {_told(left)} and {_told(right)}; both have to be annotated tensors")
        if left.dims != right.dims:
            raise CompileError(
                f"{name}: + of {_told(left)} and {_told(right)}; {_unlike(left.dims, right.dims)}: names and sizes "
                "must agree"
            )
        want = tuple(self._sum(a, b) for a, b in zip(left.layout, right.layout, strict=True))
        a, b = self.edges.convert(left, want, name), self.edges.convert(right, want, name)
        producer = f"{self._addend(left)} + {self._addend(right)}"
        wider = max((v.itemsize for v in (left, right) if v.itemsize), default=None)
        out = self.edges.value(producer, left.dims, want, left.hint, itemsize=wider)
        self.program.operations.append(Add(a, b, out))
        return out

    @staticmethod
    def _addend(value: Value) -> str:
        """What gives ``value``; a sum is not told again, since a residual stream would grow by every layer's name."""
        return "..." if " + " in value.producer else value.producer

    @staticmethod
    def _sum(left: Placement, right: Placement) -> Placement:
        """Sums of like placements stay; a max is no sum; of two unlike ones a cut is the cheaper to reach."""
        if left == right and left != Partial("max"):
            return left
        return next((p for p in (left, right) if isinstance(p, Shard)), REPLICATE)

    def _output(self, node: fx.Node) -> None:
        returned = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
        if len(returned) != len(self.gives):
            raise CompileError(f"the model returns {len(returned)} values, its annotation says {len(self.gives)}")
        given = [self._given(_node_of(arg, "output"), spec) for arg, spec in zip(returned, self.gives, strict=True)]
        self.program.result, self.program.extras = given[0], tuple(given[1:])

    def _given(self, node: fx.Node, spec: Spec) -> Value:
        result = self.results[node]
        if not isinstance(result, Value) or result.dims != spec.dims:
            raise CompileError(f"the model returns {_shown(result)}, its annotation says {spec}")
        named = {atom for axis in spec.axes for atom in self.mesh.atoms(axis)}
        own = set(self.mesh.atoms("attn_dp")) - named  # the caller's own cut; it counts the rows that it gets
        free = {i: p for i, p in enumerate(result.layout) if i in own and isinstance(p, Shard) and p.dim in BATCH_DIMS}
        return self.edges.convert(result, self.edges.required(spec, "output", free=free), "output")


def _placed(args: list[Arg], boundary: Boundary) -> list[tuple[Value, Spec]]:
    """Arguments that have a placement, with what the boundary says of them."""
    pairs = zip(args, boundary.takes, strict=True)
    return [(arg, spec) for arg, spec in pairs if isinstance(arg, Value) and isinstance(spec, Spec)]


def _of_batch(spec: Spec, batches: Mapping[str | None, Dim]) -> Spec:
    """``spec`` for the batch dimension that the inputs really have (a head takes tokens or samples)."""
    actual = batches.get(spec.batch)
    return spec.of_rows(actual) if actual else spec


def _node_of(arg: Any, name: str) -> fx.Node:
    if not isinstance(arg, fx.Node):
        raise CompileError(
            f"{name}: computes with the constant {arg!r} between modules; move it into an annotated module"
        )
    return arg


def _source(arg: Any, write: Callable[[Any], str]) -> str | None:
    """Code that makes ``arg``, whose parts ``write`` writes; None where there is none."""
    text: str | None = None
    match arg:
        case slice():
            text = f"slice({write(arg.start)}, {write(arg.stop)}, {write(arg.step)})"
        case list():
            text = f"[{', '.join(map(write, arg))}]"
        case tuple():
            text = f"({''.join(f'{write(part)}, ' for part in arg)})"
        case dict():
            text = f"{{{', '.join(f'{write(key)}: {write(part)}' for key, part in arg.items())}}}"
        case None | bool() | int() | str():
            text = repr(arg)
        case float() if isfinite(arg):
            text = repr(arg)
    return text


def _same_dims(have: tuple[Dim, ...], want: tuple[Dim, ...]) -> bool:
    """Equal names and sizes; one batch dimension may stand for another (a head takes tokens or samples)."""
    batches = bool(have and want) and have[0].name in BATCH_DIMS and want[0].name in BATCH_DIMS
    return have[1:] == want[1:] if batches else have == want


def _dims(dims: tuple[Dim, ...]) -> str:
    return ", ".join(map(str, dims))


def _unlike(have: tuple[Dim, ...], want: tuple[Dim, ...]) -> str:
    """In what dimensions differ."""
    if len(have) != len(want):
        return f"{len(have)} dimensions are not {len(want)}"
    differ = (f"{a} is not {b}" for a, b in zip(have, want, strict=True) if not _same_dims((a,), (b,)))
    return " and ".join(differ)


def _shown(result: Result) -> str:
    if isinstance(result, Value):
        return f"[{_dims(result.dims)}]"
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else result


def _told(result: Result) -> str:
    """A result, and what gives it."""
    of = result[0] if isinstance(result, tuple) else result
    return f"{_shown(result)} of {of.producer}" if isinstance(of, Value) else _shown(result)
