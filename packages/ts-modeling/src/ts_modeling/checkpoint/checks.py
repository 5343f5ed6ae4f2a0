"""A checkpoint against a model's table, both ways, before anything is read; and its scales once they are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..layers.leaf import Buffer, Leaf, Slot
from .folder import CheckpointFolder
from .scratch import words
from .table import Entry, Table

Part = tuple[Entry, Slot]
Plan = Mapping[str, list[Part]]
"""What fills each leaf."""
SHOWN: Final = 5
NO_NUMBER: Final = {
    torch.float32: 0x7F800000,
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
    torch.float8_e4m3fn: 0x7F,
    torch.float8_e8m0fnu: 0xFF,
    torch.uint8: 0xFF,
}
"""Bits of scales; uint8 ones are powers of two as e8m0 is."""


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


def plan_of(leaves: Mapping[str, Leaf], folder: CheckpointFolder, entries: Iterable[Entry]) -> Plan:
    """Entries of each leaf with their slots. Raises ``CheckpointError`` naming wrong shapes, types and numbers."""
    plan: dict[str, list[Part]] = defaultdict(list)
    problems: list[str] = []
    wanted = {path: leaf.buffers_wanted() for path, leaf in leaves.items()}
    for entry in entries:
        if not entry.module:
            continue
        slot = leaves[entry.module].slot(entry.part)
        found = _problem(entry, slot, wanted[entry.module].get(slot.buffer), folder)
        if found:
            problems.append(found)
        elif slot.says is None:
            plan[entry.module].append((entry, slot))
    if problems:
        raise CheckpointError(f"{folder.folder}: {_list(problems)}")
    return plan


def _problem(entry: Entry, slot: Slot, buffer: Buffer | None, folder: CheckpointFolder) -> str:
    """What is wrong with a tensor, or nothing."""
    info = folder.info(entry.name)
    shape = (*slot.shape[:-2], slot.shape[-1], slot.shape[-2]) if slot.transposed else slot.shape
    if _trimmed(info.shape) != _trimmed(shape):
        return f"{entry.name} has shape {list(info.shape)}, config.json asks for {list(shape)}"
    if slot.says is not None:
        if info.dtype.is_floating_point:
            return f"{entry.name} is {_name(info.dtype)}, expected integers"
        found = folder.read(entry.name).tolist()
        return "" if found == list(slot.says) else f"{entry.name} says {found}, config.json asks for {list(slot.says)}"
    if buffer and info.dtype not in buffer.dtypes:
        return f"{entry.name} is {_name(info.dtype)}, expected {' or '.join(map(_name, buffer.dtypes))}"
    return ""


def check_scales(
    wanted: Mapping[str, Buffer], parts: Iterable[Part], folder: CheckpointFolder, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse factors that are no numbers: one of them spoils every token, and they are few enough to look at all."""
    for key, buffer in wanted.items():
        if buffer.scale and not _finite(tensors[key]):
            bad = (e.name for e, slot in parts if slot.buffer == key and not _finite(folder.read(e.name)))
            raise CheckpointError(f"{folder.folder}: {next(bad)} holds scales that are not finite; copy the file again")


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without sizes of 1 at the end, which formats write or leave out: a scale is [N, 1] or [N], [1] or []."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _finite(scales: Tensor) -> bool:
    """Whether none has all the bits that its type's infinities and NaNs share; in this thread, as the copies are."""
    mask = NO_NUMBER[scales.dtype]
    return not bool(((words(scales.cpu()) & mask) == mask).any())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
