"""Module graph of a model by ``torch.fx``, with annotated modules as leaves."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from ..errors import CompileError
from ..layers.leaf import Leaf

FIX = (
    "the way through a model may depend on its configuration only; move what depends on values into an annotated module"
)

OF_VALUES = ("symbolic", "'Proxy'", "'Attribute'", "argument of type")
"""What the messages of Python and ``torch.fx`` have where a number is made of a value, or a value of a strange type."""


class BoundaryTracer(fx.Tracer):
    """Traces through every module but the annotated ones."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Only annotated modules are opaque."""
        return isinstance(m, Leaf)

    def path_of_module(self, mod: nn.Module) -> str:
        """Raise ``CompileError`` for a module that the model does not have, as one in a Python list."""
        try:
            return super().path_of_module(mod)
        except NameError as error:
            here = self.here()
            raise CompileError(
                f"{here}: calls a {type(mod).__name__} that is no part of the model; make it an attribute of a module, "
                "or keep several in nn.ModuleList"
            ) from error

    def here(self) -> str:
        """Path of the module that is being traced, or the type of the model."""
        return next(reversed(self.module_stack), type(self.root).__name__)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Raise ``CompileError``, for nothing is known of values."""
        raise CompileError(f"{where(obj.node)}: the model asks whether {told(obj.node)} is true; {FIX}")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Unpacking is traced; raise ``CompileError`` for a loop."""
        try:
            out: Iterator[Any] = super().iter(obj)
        except TraceError as error:
            raise CompileError(f"{where(obj.node)}: the model loops over {told(obj.node)}; {FIX}") from error
        return out


def trace(model: nn.Module) -> fx.Graph:
    """Trace ``model.forward`` symbolically; its control flow may depend on the configuration, never on values.

    Raises ``CompileError`` where it does.
    """
    tracer = BoundaryTracer()
    try:
        return tracer.trace(model)
    except (TraceError, RuntimeError, TypeError, NotImplementedError) as error:
        if not isinstance(error, TraceError) and not any(sign in str(error) for sign in OF_VALUES):
            raise
        raise CompileError(f"{tracer.here()}: {error}; {FIX}") from error


def where(node: fx.Node) -> str:
    """Module and name of what is computed between modules."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack", {})
    paths = list(stack)
    return f"{paths[-1]}.{_name(node)}" if paths else _name(node)


def told(arg: Any, depth: int = 3) -> str:
    """What is computed, as one would write it: modules by their paths, functions in one another ``depth`` deep."""
    if not isinstance(arg, fx.Node):
        return repr(arg)
    if arg.op in ("placeholder", "get_attr", "call_module"):
        return str(arg.target)
    reads = arg.target in (getattr, operator.getitem)
    of = [told(each, depth - (not reads)) if depth else "..." for each in arg.args]
    if arg.target is getattr:
        return f"{of[0]}.{arg.args[1]}"
    if arg.target is operator.getitem:
        return f"{of[0]}[{of[1]}]"
    return f"{_name(arg)}({', '.join(of)})"


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
