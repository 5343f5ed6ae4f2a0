"""Module graph of a model by ``torch.fx``, with annotated modules as leaves."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from ..errors import CompileError
from ..layers.leaf import Leaf

FIX = (
    "the way through a model may depend on its configuration only; move what depends on values into an annotated module"
)


class BoundaryTracer(fx.Tracer):
    """Traces through every module but the annotated ones."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Only annotated modules are opaque."""
        return isinstance(m, Leaf)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Raise ``CompileError``, for nothing is known of values."""
        raise CompileError(f"{where(obj.node)}: the model asks whether {obj.node.format_node()} is true; {FIX}")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Unpacking is traced; raise ``CompileError`` for a loop."""
        try:
            out: Iterator[Any] = super().iter(obj)
        except TraceError as error:
            raise CompileError(f"{where(obj.node)}: the model loops over {obj.node.format_node()}; {FIX}") from error
        return out


def trace(model: nn.Module) -> fx.Graph:
    """Trace ``model.forward`` symbolically; its control flow may depend on the configuration, never on values.

    Raises ``CompileError`` where it does.
    """
    try:
        return BoundaryTracer().trace(model)
    except TraceError as error:
        raise CompileError(f"{type(model).__name__}: {error}; {FIX}") from error


def where(node: fx.Node) -> str:
    """Module and name of what is computed between modules."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack", {})
    paths = list(stack)
    name = getattr(node.target, "__name__", str(node.target))
    return f"{paths[-1]}.{name}" if paths else name
