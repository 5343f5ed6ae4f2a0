"""Checks of tensor arguments: rank, sizes, dtype, device, layout; each failure names the argument.

The public functions test the conditions inline, which costs a fraction of a microsecond, and come here only to say what
was wrong; checks that read values run in debug mode alone.
"""

import itertools
import math
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from . import settings
from .errors import ContractError

FLOATS = frozenset({torch.float32, torch.bfloat16})
REALS = FLOATS | {torch.float16, torch.float64}  # what the references compute with besides
CACHES = FLOATS | {torch.float8_e4m3fn}
MOST = 2**31 - 1
E4M3_MAX = 448.0  # the largest float8_e4m3fn
MOST_FLOAT = torch.finfo(torch.float32).max  # kernels compute in fp32: what is larger is as good as infinite


def debug() -> bool:
    """Whether checks that read values are on (TS_KERNELS_DEBUG=1)."""
    return settings.current().debug


def shape(operation: str, argument: str, tensor: Tensor, *sizes: int | str) -> None:
    """``tensor`` has this rank and these sizes; a text stands for any size and names it in the message."""
    if not hasattr(tensor, "__torch_function__"):  # what traces a call has it too
        raise ContractError(operation, argument, "a tensor", repr(tensor))
    good = tensor.dim() == len(sizes) and all(
        isinstance(want, str) or have == want for have, want in zip(tensor.shape, sizes, strict=True)
    )
    if not good:
        raise ContractError(operation, argument, f"[{', '.join(map(str, sizes))}]", tensor)


def dense_rows(operation: str, argument: str, tensor: Tensor) -> None:
    """The last dimension is contiguous (rows may be spaced)."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ContractError(operation, argument, "contiguous in its last dimension", tensor)


def readable(operation: str, argument: str, tensor: Tensor) -> None:
    """``tensor`` is one whose numbers lie in memory as they are, or on meta: kernels take addresses.

    Not so are those of FakeTensorMode, vmap and grad, zeros without memory, and views whose sign torch has yet to turn.
    """
    try:
        plain = type(tensor).__torch_dispatch__ is _DISPATCH and not tensor.is_neg()
        if plain and (tensor.data_ptr() or not tensor.numel() or tensor.is_meta):
            return
    except RuntimeError:  # of functorch's: they have no address
        pass
    fail(operation, argument, "a tensor whose numbers are in memory as they are (calls cannot be traced)", tensor)


_DISPATCH = Tensor.__torch_dispatch__


def apart(operation: str, argument: str, tensor: Tensor) -> None:
    """Refuse a tensor to write to whose elements are one another's memory, as those of ``expand`` are."""
    reach = 0  # how far behind the first of its elements those of the closer dimensions lie
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach and tensor.numel():
            fail(operation, argument, "of elements with memory of their own, as they are written to", tensor)
        reach += stride * (size - 1) if size > 1 else 0


def disjoint(operation: str, argument: str, tensor: Tensor, name: str, other: Tensor) -> None:
    """Refuse a tensor to write to that shares memory with ``other``, which the call reads or writes too."""
    mine, theirs = _runs(tensor), _runs(other)
    if not tensor.is_meta and mine.start < theirs.end and theirs.start < mine.end and _meet(mine, theirs):
        fail(operation, argument, f"apart from {name} in memory", tensor)


class _Runs(NamedTuple):
    """Runs of memory, in bytes: where the first starts, their length, the step from each to the next, how often."""

    start: int
    length: int
    step: int
    times: int

    @property
    def end(self) -> int:
        return self.start + (self.times - 1) * self.step + self.length


def _runs(x: Tensor) -> _Runs:
    """A run for each line of the first dimension, one for all where they are adjacent."""
    if x.numel() == 0:
        return _Runs(0, 0, 0, 0)
    length = 1 + sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    count, step = x.shape[0], x.stride(0)
    if step == length or count == 1:
        length, count = length + (count - 1) * step, 1
    return _Runs(x.data_ptr(), length * x.itemsize, step * x.itemsize, count)


def _meet(a: _Runs, b: _Runs) -> bool:
    """Whether two whose spans meet share a byte; those of several runs each and of other steps count as if they did."""
    if a.times > 1 < b.times:  # pages of keys and pages of values in turn, say
        gap = (b.start - a.start) % a.step
        return a.step != b.step or gap < a.length or a.step - gap < b.length
    one, several = (a, b) if a.times == 1 else (b, a)
    if several.times == 1:
        return True
    first = max((one.start - several.length - several.start) // several.step + 1, 0)  # that ends behind one's start
    return first < several.times and several.start + first * several.step < one.end


def distinct(operation: str, argument: str, places: Tensor) -> None:
    """No place that is written to comes twice; negative ones are padding. Reads the tensor: for debug mode."""
    found, times = torch.unique(places[places >= 0], return_counts=True)
    if found.numel() < int(times.sum()):
        fail(operation, argument, "distinct", f"{int(found[times > 1][0])} {int(times.max())} times")


def contiguous(operation: str, argument: str, tensor: Tensor) -> None:
    """``tensor`` is contiguous."""
    if not tensor.is_contiguous():
        raise ContractError(operation, argument, "contiguous", tensor)


def dtype(operation: str, argument: str, tensor: Tensor, *allowed: torch.dtype) -> None:
    """``tensor`` has one of these dtypes."""
    if tensor.dtype not in allowed:
        names = " or ".join(str(a).removeprefix("torch.") for a in allowed)
        raise ContractError(operation, argument, names, tensor)


def device(operation: str, first: Tensor, **others: Tensor) -> None:
    """Every tensor is on the device of ``first``."""
    for argument, tensor in others.items():
        if tensor.device != first.device:
            raise ContractError(operation, argument, f"on {first.device} like the first argument", tensor)


def in_range(operation: str, argument: str, tensor: Tensor, low: int, high: int) -> None:
    """Every value is in [low, high). Reads the tensor: for debug mode."""
    if tensor.numel() and (int(tensor.min()) < low or int(tensor.max()) >= high):
        given = f"values from {int(tensor.min())} to {int(tensor.max())}"
        raise ContractError(operation, argument, f"in [{low}, {high})", given)


def below(operation: str, argument: str, tensor: Tensor, high: int) -> None:
    """Every value is below ``high``; negative ones mean none. Reads the tensor: for debug mode."""
    if tensor.numel() and int(tensor.max()) >= high:
        raise ContractError(operation, argument, f"below {high}", f"{int(tensor.max())}")


def spans(operation: str, cu_q: Tensor, tokens: int) -> None:
    """``cu_q`` [R+1] goes from 0 to the number of tokens and never falls. Reads the tensor: for debug mode."""
    bounds = cu_q.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens or any(b < a for a, b in itertools.pairwise(bounds)):
        fail(operation, "cu_q", f"from 0 to {tokens} without a fall", f"{bounds[:8]}{' ...' if bounds[8:] else ''}")


def finite(operation: str, argument: str, number: float, *, least: float = -math.inf) -> None:
    """``number`` is finite as fp32, and at least ``least``."""
    if not max(least, -MOST_FLOAT) <= number <= MOST_FLOAT:  # NaN fails every comparison
        bound = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise ContractError(operation, argument, bound, number)


def count(operation: str, argument: str, number: int) -> None:
    """``number`` is a whole one from 1."""
    if not isinstance(number, int) or number < 1:
        raise ContractError(operation, argument, "a whole number from 1", repr(number))


def whole(operation: str, argument: str, number: int) -> None:
    """``number`` is a whole one."""
    if not isinstance(number, int):
        raise ContractError(operation, argument, "a whole number", repr(number))


def bounded(operation: str, argument: str, size: int) -> None:
    """``size`` is below 2**31, what kernels count with: said before memory of such a size is asked for."""
    if size > MOST:
        raise ContractError(operation, argument, f"at most {MOST}", size)


def fail(operation: str, argument: str, expected: str, given: object) -> NoReturn:
    """Raise ``ContractError``."""
    raise ContractError(operation, argument, expected, given)
