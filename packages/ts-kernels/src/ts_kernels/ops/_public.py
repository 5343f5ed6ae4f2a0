"""The door of every public function: an argument that is no tensor, number or weight at all is named like any other."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import ContractError, KernelError

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {
    Tensor: "a tensor",
    bool: "True or False",
    float: "a number",
    int: "a whole number of 64 bits",
    torch.dtype: "a torch.dtype",
    types.NoneType: "None",
}
_STUMBLES = (AttributeError, OverflowError, RuntimeError, TypeError, ValueError)
# With the names written out a call costs 80 ns more than without; through *args and **kwargs it is 250 (rms_norm's
# direct call takes 1570).
_DOOR = """
def call({parameters}):
    try:
        return function({passed})
    except KernelError:
        raise
    except stumbles as error:
        wrong = misfit(function, {given})
        if wrong is None:
            raise
        raise wrong from error
"""


def public(function: F) -> F:
    """``function``; where it trips over an argument of another type than annotated, ``ContractError`` says which.

    Types are looked at after the error, not before each call: that would cost more than all other checks together.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters]
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    keywords = names[len(positional) :]
    source = _DOOR.format(
        parameters=", ".join((*positional, "*", *keywords) if keywords else positional),
        passed=", ".join((*positional, *(f"{name}={name}" for name in keywords))),
        given="{" + ", ".join(f"{name!r}: {name}" for name in names) + "}",
    )
    scope: dict[str, Any] = {"function": function, "KernelError": KernelError, "stumbles": _STUMBLES, "misfit": _misfit}
    exec(compile(source, f"<the door of {function.__name__}>", "exec"), scope)
    call = cast("types.FunctionType", functools.wraps(function)(scope["call"]))
    call.__defaults__, call.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return cast("F", call)


def _misfit(function: Callable[..., Any], given: Mapping[str, object]) -> ContractError | None:
    """The first argument that is not of its annotation's type."""
    family = function.__module__.removeprefix("ts_kernels.ops.").partition(".")[0]
    hints = typing.get_type_hints(function)
    for name, value in given.items():
        kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        if not any(_is(value, kind) for kind in kinds):
            shown = repr(value) if isinstance(value, str) else value
            return ContractError(f"{family}.{function.__name__}", name, " or ".join(map(_word, kinds)), shown)
    return None


def _is(value: object, kind: Any) -> bool:
    if kind is Tensor:
        if isinstance(value, Tensor):
            return value.layout == torch.strided and not value.is_nested
        return hasattr(value, "__torch_function__")  # what traces a call stands in for a tensor
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, typing.get_origin(kind) or kind)


def _word(kind: Any) -> str:
    return _WORDS.get(kind, str(getattr(kind, "__name__", kind)))
