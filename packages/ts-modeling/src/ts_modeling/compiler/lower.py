"""From the plan to plain Python: one statement a step, names given back as soon as a value is dead."""

import re
from collections.abc import Callable
from keyword import iskeyword
from typing import Any, Protocol

from torch import Tensor

from .choose import Plans
from .memory import writable
from .program import (
    ITS_ROWS,
    Add,
    Arg,
    Call,
    Collect,
    Communication,
    FusedNorm,
    Operation,
    Program,
    Start,
    Value,
    Wait,
    call_of,
    collective_of,
    reads,
)

Forward = Callable[..., Tensor]


class Collectives(Protocol):
    """Makes the functions that carry out collectives; see ``ts_modeling.communication``.

    ``reuse`` says that nothing reads the first argument afterwards, so that its memory may be written.
    """

    def collective(self, op: Communication, *, reuse: bool) -> Callable[..., Any]:
        """Function of the local tensors and the batch that returns the results."""
        ...

    def start(self, op: Communication, *, reuse: bool) -> Callable[..., Any]:
        """Function of the local tensors and the batch that returns an object whose ``wait()`` gives the results."""
        ...

    def reduce_then_norm(self, fused: FusedNorm, *, reuse: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        """Function of the addends, the residual and the batch that returns (normed, residual)."""
        ...


def lower(program: Program, collectives: Collectives | None) -> tuple[str, Forward | None]:
    """Return the source of the compiled forward and, where ``collectives`` is given, the function itself."""
    writer = _Writer(program, collectives)
    source = writer.write()
    if collectives is None and program.mesh.world > 1:
        return source, None
    exec(compile(source, "<ts_modeling compiled forward>", "exec"), writer.scope)
    function: Forward = writer.scope["forward"]
    return source, function


def lower_plans(plans: Plans, collectives: Collectives | None) -> tuple[str, Forward | None]:
    """As ``lower``; where there are several plans, the number of tokens in the whole batch decides which one runs."""
    if len(plans.programs) == 1:
        return lower(plans.programs[0], collectives)
    lowered = [lower(program, collectives) for program in plans.programs]
    parameters = ", ".join(plans.programs[0].parameters)
    batch = plans.programs[0].parameters[0]
    names = [f"forward_from_{since}" for since in plans.since]
    groups = plans.programs[0].mesh.size("attn_dp")
    tokens = f"sum({batch}.dp_sizes)" if groups > 1 else f"{batch}.tokens.shape[0]"
    lines = [f"def forward({parameters}):", f"    tokens = {tokens}"]
    for name, since in list(zip(names, plans.since, strict=True))[:0:-1]:
        lines += [f"    if tokens >= {since}:", f"        return {name}({parameters})"]
    lines.append(f"    return {names[0]}({parameters})")
    chooser = "\n".join(lines) + "\n"
    parts = [code.replace("def forward(", f"def {name}(", 1) for name, (code, _) in zip(names, lowered, strict=True)]
    source = "\n\n".join((*parts, chooser))
    if collectives is None:
        return source, None
    scope: dict[str, Any] = {name: function for name, (_, function) in zip(names, lowered, strict=True)}
    exec(compile(chooser, "<ts_modeling choice of plan>", "exec"), scope)
    return source, scope["forward"]


class _Writer:
    def __init__(self, program: Program, collectives: Collectives | None) -> None:
        self.program, self.collectives = program, collectives
        self.scope: dict[str, Any] = {}
        self.names: dict[int, str] = {}
        self.locals = set(program.parameters)
        self.free_after, self.writable = _last_uses(program), writable(program)
        self.batch = program.parameters[0]
        self.reserved = {
            *program.parameters,
            *(_identifier(op.path) for op in program.operations if isinstance(op, Call)),
        }

    def write(self) -> str:
        lines = [f"def forward({', '.join(self.program.parameters)}):"]
        before = ""
        for index, op in enumerate(self.program.operations):
            here = section(op)
            if here and here != before:
                before = here
                lines.append(f"    # {here}")
            lines.append(f"    {self._statement(index, op)}")
        assert self.program.result is not None
        given = (self.program.result, *self.program.extras)
        lines.append(f"    return {', '.join(map(self._name, given))}")
        return "\n".join(lines) + "\n"

    def _statement(self, index: int, op: Operation) -> str:
        right, note = self._right(op, reuse=id(op) in self.writable)
        dead = [self.names.pop(v.id) for v in self.free_after[index] if v.id in self.names]
        left = [self._assign(out) for out in op.outs]
        kept = [name for name in dead if name not in left]
        drop = f"; del {', '.join(kept)}" if kept else ""
        return f"{', '.join(left)} = {right}{drop}{f'  # {note}' if note else ''}"

    def _right(self, op: Operation, *, reuse: bool) -> tuple[str, str]:
        made = self.collectives
        match op:
            case Call():
                name = self._bind(op.path, op.leaf.forward)
                return f"{name}({', '.join(map(self._name, op.args))})", ""
            case Add():
                return f"{self._name(op.left)} + {self._name(op.right)}", ""
            case Wait():
                return f"{self._name(op.start.pending)}.wait()", ""
            case FusedNorm():
                function: object = made.reduce_then_norm(op, reuse=reuse) if made else None
                name = self._bind(f"{op.call.path}.after_{op.collect.kind}", function)
                args: list[Arg] = [op.collect.source, *op.call.args[1:]]
                return self._communicate(name, args, op.collect)
            case Start():
                function = made.start(op.op, reuse=reuse) if made else None
                return self._communicate(self._bind(f"start.{_title(op.op)}", function), list(reads(op)), op.op)
        function = made.collective(op, reuse=reuse) if made else None
        return self._communicate(self._bind(_title(op), function), list(reads(op)), op)

    def _communicate(self, name: str, args: list[Arg], op: Communication) -> tuple[str, str]:
        return f"{name}({', '.join(map(self._name, args))}, {self.batch})", _change(op)

    def _bind(self, path: str, function: object) -> str:
        base = _identifier(path)
        name, tries = base, 1
        while name in self.locals or (name in self.scope and self.scope[name] is not function):
            tries += 1
            name = f"{base}_{tries}"
        self.scope[name] = function
        return name

    def _name(self, arg: Arg) -> str:
        if isinstance(arg, str):
            return arg
        return arg.expr or self.names[arg.id]

    def _assign(self, value: Value) -> str:
        taken, base = {*self.names.values(), *self.reserved, *self.scope}, _identifier(value.hint)
        name, tries = base, 1
        while name in taken:
            tries += 1
            name = f"{base}_{tries}"
        self.names[value.id] = name
        self.locals.add(name)
        return name


def _identifier(path: str) -> str:
    """A name for Python code, whatever modules and dimensions are called."""
    name = re.sub(r"\W", "_", path)
    return f"{name}_" if iskeyword(name) else name if name.isidentifier() else f"_{name}"


def _last_uses(program: Program) -> list[list[Value]]:
    """For each operation, the values that nothing reads after it (results that nothing reads at all are kept)."""
    last: dict[int, tuple[int, Value]] = {}
    for index, op in enumerate(program.operations):
        for value in reads(op):
            last[value.id] = (index, value)
    out: list[list[Value]] = [[] for _ in program.operations]
    for index, value in last.values():
        if not program.gives(value):
            out[index].append(value)
    return out


def section(op: Operation) -> str:
    """The layer that a step belongs to, or the top-level module; empty for a step between modules."""
    call, sent = call_of(op), collective_of(op)
    path = call.path if call else ""
    if sent and not call:
        path = sent.first.producer if sent.consumer == ITS_ROWS else sent.consumer
    if path == "output":
        return ""
    parts = path.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def _title(op: Communication) -> str:
    if not isinstance(op, Collect):
        return op.kind
    over = "_".join(f"atom{a}" for a in op.step.atoms)
    return ".".join(filter(None, (op.kind, op.step.gather, op.step.scatter, over)))


def _change(op: Communication) -> str:
    return f"{', '.join(map(str, op.first.layout))} -> {', '.join(map(str, op.outs[0].layout))}"
