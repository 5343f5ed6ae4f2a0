"""Checks of tensor arguments: rank, sizes, dtype, device, layout; each failure names the argument.

The public functions test the conditions inline, which costs a fraction of a microsecond, and come here only to say what
was wrong; checks that read values run in debug mode alone.
"""

import math
from typing import NoReturn

import torch
from torch import Tensor

from . import settings
from .errors import ContractError

FLOATS = frozenset({torch.float32, torch.bfloat16})
REALS = FLOATS | {torch.float16, torch.float64}  # what the references compute with besides
CACHES = FLOATS | {torch.float8_e4m3fn}
MOST = 2**31 - 1
E4M3_MAX = 448.0  # the largest float8_e4m3fn


def debug() -> bool:
    """Whether checks that read values are on (TS_KERNELS_DEBUG=1)."""
    return settings.current().debug


def shape(operation: str, argument: str, tensor: Tensor, *sizes: int | str) -> None:
    """``tensor`` has this rank and these sizes; a text stands for any size and names it in the message."""
    good = tensor.dim() == len(sizes) and all(
        isinstance(want, str) or have == want for have, want in zip(tensor.shape, sizes, strict=True)
    )
    if not good:
        raise ContractError(operation, argument, f"[{', '.join(map(str, sizes))}]", tensor)


def dense_rows(operation: str, argument: str, tensor: Tensor) -> None:
    """The last dimension is contiguous (rows may be spaced)."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ContractError(operation, argument, "contiguous in its last dimension", tensor)


def apart(operation: str, argument: str, tensor: Tensor) -> None:
    """Refuse a tensor to write to whose rows are one another's memory, as those of ``expand`` are."""
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride == 0 and size > 1:
            fail(operation, argument, "of rows with memory of their own, as they are written to", tensor)


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


def finite(operation: str, argument: str, number: float, *, least: float = -math.inf) -> None:
    """``number`` is finite, and at least ``least``."""
    if not least <= number < math.inf or number == -math.inf:  # NaN fails every comparison
        bound = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise ContractError(operation, argument, bound, number)


def complete(operation: str, argument: str, have: int, wanted: int) -> None:
    """All ``wanted`` rows have come; raises ``ContractError`` where some are missing."""
    if have < wanted:
        fail(operation, argument, f"{wanted} rows before the end", f"{have}")


def count(operation: str, argument: str, number: int) -> None:
    """``number`` is a whole one from 1."""
    if not isinstance(number, int) or number < 1:
        raise ContractError(operation, argument, "a whole number from 1", repr(number))


def bounded(operation: str, argument: str, size: int) -> None:
    """``size`` is below 2**31, what kernels count with: said before memory of such a size is asked for."""
    if size > MOST:
        raise ContractError(operation, argument, f"at most {MOST}", size)


def fail(operation: str, argument: str, expected: str, given: object) -> NoReturn:
    """Raise ``ContractError``."""
    raise ContractError(operation, argument, expected, given)
