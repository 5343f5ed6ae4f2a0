"""A checkpoint against a model's table, both ways, before anything is read; and its scales once they are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..layers.leaf import Buffer, Slot
from .folder import CheckpointFolder
from .safetensors import TensorInfo
from .table import Table
from .words import words

SHOWN: Final = 5
NO_NUMBER: Final = {
    torch.float32: (0x7FFFFFFF, 0x7F800000),
    torch.float16: (0x7FFF, 0x7C00),
    torch.bfloat16: (0x7FFF, 0x7F80),
    torch.float8_e4m3fn: (0x7F, 0x7F),
    torch.float8_e8m0fnu: (0xFF, 0xFF),
    torch.uint8: (0xFF, 0xFF),
}
"""Bits of a scale's magnitude, and the least of those that are an infinity or NaN; uint8 ones are as e8m0."""


def check_names(folder: CheckpointFolder, table: Table) -> None:
    """Refuse a checkpoint that lacks a tensor of the table, or holds one that nothing asks for."""
    known = {entry.name for entry in table.entries}
    missing = [entry.name for entry in table.entries if entry.name not in folder]
    unknown = [name for name in folder.names() if name not in known and not table.leaves_out(name)]
    problems = [f"{_list(names)} {what}" for names, what in ((missing, "missing"), (unknown, "unknown")) if names]
    if problems:
        hint = (
            "the checkpoint does not fit its config.json"
            if unknown
            else "the download is incomplete, or config.json is another's"
        )
        raise CheckpointError(f"{folder.folder}: {'; '.join(problems)}: {hint}")


def problem_of(slot: Slot, buffer: Buffer | None, info: TensorInfo) -> str:
    """What is wrong with a tensor's shape or type, or nothing."""
    if info.shape != slot.stored and _trimmed(info.shape) != _trimmed(slot.stored):
        return f"has shape {list(info.shape)}, config.json asks for {list(slot.stored)}"
    if slot.says is not None and info.dtype.is_floating_point:
        return f"is {_name(info.dtype)}, expected integers"
    if buffer and info.dtype not in buffer.dtypes:
        return f"is {_name(info.dtype)}, expected {' or '.join(map(_name, buffer.dtypes))}"
    return ""


def types_of(
    wanted: Mapping[str, Buffer],
    names: Sequence[str],
    slots: Sequence[Slot],
    infos: Sequence[TensorInfo],
    dtype: torch.dtype,
) -> dict[str, torch.dtype]:
    """Type of each buffer: that of the tensors which fill it, but fp16 weights become ``dtype``.

    Raises ``CheckpointError`` naming one that differs from those stacked with it.
    """
    out: dict[str, torch.dtype] = {}
    first: dict[str, tuple[str, TensorInfo]] = {}
    for name, slot, info in zip(names, slots, infos, strict=True):
        if slot.moves:
            other, as_ = first.setdefault(slot.buffer, (name, info))
            held = dtype if info.dtype == torch.float16 and not wanted[slot.buffer].half else info.dtype
            if out.setdefault(slot.buffer, held) != held:
                raise CheckpointError(
                    f"{name} is {_name(info.dtype)}, but {other}, which is stacked with it, is {_name(as_.dtype)}; "
                    "save both in one type"
                )
    return out


def check_says(folder: CheckpointFolder, name: str, numbers: tuple[int, ...]) -> None:
    """Refuse a tensor that holds other numbers than these."""
    found = folder.read(name).tolist()
    if found != list(numbers):
        raise CheckpointError(f"{folder.folder}: {name} says {found}, config.json asks for {list(numbers)}")


def check_scale(folder: CheckpointFolder, scales: Tensor, names: Iterable[str]) -> None:
    """Refuse factors that are no numbers, of one of these tensors: one of them spoils every token, and they are few
    enough to look at all."""
    if not _finite(scales):
        bad = next(name for name in names if not _finite(folder.read(name)))
        raise CheckpointError(f"{folder.folder}: {bad} holds scales that are not finite; copy the file again")


def refuse_misfits(folder: CheckpointFolder, problems: list[str]) -> None:
    """Raise ``CheckpointError`` where tensors do not fit."""
    if problems:
        raise CheckpointError(f"{folder.folder}: {_list(problems)}")


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without sizes of 1 at the end, which formats write or leave out: a scale is [N, 1] or [N], [1] or []."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _finite(scales: Tensor) -> bool:
    """Whether all are numbers; in this thread, as the copies are."""
    magnitude, no_number = NO_NUMBER[scales.dtype]
    bits = words(scales if scales.device.type == "cpu" else scales.cpu())
    return int((bits & magnitude).max(initial=0)) < no_number


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
