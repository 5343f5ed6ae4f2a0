"""What is wrong with an annotation whatever its neighbours are: misspelt axes, no boundary, a whole made of a part."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, get_args

from ..errors import CompileError
from ..layers.leaf import Leaf
from ..placement import AXES, REPLICATE, Boundary, Dim, Opaque, Partial, Placement, Shard, Spec
from ..placement.placements import ReduceOp


def check_boundary(path: str, leaf: Leaf) -> None:
    """Raise ``CompileError`` where the boundary of the leaf at ``path`` can't be one."""
    boundary: Any = getattr(leaf, "boundary", None)
    if not isinstance(boundary, Boundary):
        raise CompileError(
            f"{path}: {type(leaf).__name__} has no annotation; set self.boundary = Boundary(takes=(...), gives=(...)) "
            "in its __init__"
        )
    for label, specs, kinds in (("takes", boundary.takes, (Spec, Opaque)), ("gives", boundary.gives, (Spec,))):
        allowed = "Spec or OPAQUE" if Opaque in kinds else "Spec"
        if not isinstance(specs, tuple):
            raise CompileError(f"{path}: {label} is {specs}, not a tuple; write {label}=({allowed}, ...)")
        for number, spec in enumerate(specs):
            if not isinstance(spec, kinds):
                raise CompileError(f"{path}: {label}[{number}] is {spec!r}; give a {allowed}")
            if isinstance(spec, Spec):
                check_spec(f"{path}: {label}[{number}]", spec)
    if not boundary.gives or len(boundary.names) not in (0, len(boundary.gives)):
        raise CompileError(
            f"{path}: gives {len(boundary.gives)} results and names {len(boundary.names)}; give one at least, and as "
            "many names, or none"
        )
    if boundary.routed and boundary.routed.axis not in AXES:
        raise CompileError(f"{path}: routed: {_unknown('axis', boundary.routed.axis, AXES)}")


def check_arity(path: str, leaf: Leaf) -> None:
    """Raise ``CompileError`` where the leaf at ``path`` cannot be called with what its boundary takes."""
    forward, takes = type(leaf).forward, len(leaf.boundary.takes)
    if not _callable_with(forward, takes + 1):
        raise CompileError(
            f"{path}: its boundary takes {takes}, but its forward is {type(leaf).__name__}.forward"
            f"{inspect.signature(forward)}: make the two agree"
        )


@lru_cache(maxsize=1024)
def _callable_with(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def check_whole(path: str, boundary: Boundary, sources: Sequence[str]) -> None:
    """Raise ``CompileError`` where the leaf at ``path`` takes parts or addends and says that it gives the whole.

    ``sources`` are what gives its placed arguments. No rank can make a whole of its own part; of several results one
    may be made of the arguments that are whole.
    """
    placed = [spec for spec in boundary.takes if isinstance(spec, Spec)]
    for axis in AXES:
        taken, given = ([spec.axes.get(axis, REPLICATE) for spec in specs] for specs in (placed, boundary.gives))
        parts, wholes = [p for p in taken if p != REPLICATE], given.count(REPLICATE)
        if not parts or not wholes or (len(parts) < len(taken) and wholes < len(given)):
            continue
        part, source = parts[0], sources[taken.index(parts[0])]
        addend = isinstance(part, Partial)
        has = "its addend" if addend else f"its part of {part.dim}"  # type: ignore[union-attr]
        instead = f"{part} if it is linear" if addend else "Partial() if it gives addends, Shard(dim) if columns"
        raise CompileError(
            f"{source} -> {path}: {path} takes {part} on {axis} and gives {REPLICATE}: a rank has {has} alone, and "
            f"cannot give the whole. Declare that {path} takes {REPLICATE}, or that it gives {instead}"
        )


def check_spec(label: str, spec: Any) -> None:
    """Raise ``CompileError`` where ``spec`` names what is not there; ``label`` says whose it is."""
    if not isinstance(spec, Spec):
        raise CompileError(f"{label}: is annotated with {spec!r}; give a Spec")
    for dim in spec.dims:
        if not isinstance(dim, Dim) or not isinstance(dim.name, str):
            raise CompileError(f"{label}: {dim!r} is no dimension; write Dim(name, size)")
        size: Any = dim.size
        if size is not None and (type(size) is not int or size < 1):
            raise CompileError(f"{label}: {dim} has no size; give a whole number from 1 on, or None if batches differ")
    names = [dim.name for dim in spec.dims]
    if len(set(names)) < len(names):
        raise CompileError(f"{label}: {spec} has two dimensions of one name; call them differently")
    for axis, placement in spec.axes.items():
        if axis not in AXES:
            raise CompileError(f"{label}: {spec}: {_unknown('axis', axis, AXES)}")
        reason = _wrong(placement, names)
        if reason:
            raise CompileError(f"{label}: {axis} = {reason}")


def _wrong(placement: Any, names: list[str]) -> str | None:
    """Why ``placement`` can't be that of a tensor with dimensions ``names``, and what could."""
    allowed = "Replicate(), Shard(dim) or Partial(op)"
    if isinstance(placement, type) and issubclass(placement, Placement):
        return f"{placement.__name__} is the class; write {allowed}"
    if not isinstance(placement, Placement):
        return f"{placement!r} is no placement; write {allowed}"
    if isinstance(placement, Partial) and placement.op not in get_args(ReduceOp):
        return f"{placement}: reductions are {' and '.join(get_args(ReduceOp))}"
    dim: Any = placement.dim if isinstance(placement, Shard) else None
    if isinstance(dim, Dim):
        return f'{placement} takes the name of the dimension; write Shard("{dim.name}")'
    if isinstance(placement, Shard) and dim not in names:
        return f"{placement}: {_unknown('dimension', dim, names)}"
    return None


def _unknown(what: str, name: Any, known: Iterable[str]) -> str:
    nearest = get_close_matches(str(name), list(known), 1)
    hint = f", did you mean {nearest[0]}?" if nearest else ";"
    return f"there is no {what} {name}{hint} there are {', '.join(known) or 'none'}"
