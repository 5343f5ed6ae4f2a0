"""From a checkpoint folder into a model's leaves, checked both ways against the table before anything is read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from ts_kernels import ContractError

from ..errors import CheckpointError
from ..layers.leaf import Buffer, Leaf, Slot
from .folder import CheckpointFolder
from .table import Entry, Table

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in total, and what is being loaded."""
Plan = dict[str, list[tuple[Entry, Slot]]]
SHOWN = 5


def load_weights(
    model: nn.Module,
    folder: CheckpointFolder,
    table: Table,
    *,
    device: torch.device,
    progress: Progress | None,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Fill every leaf of ``model`` with this rank's part and prepare it; one leaf's raw tensors are held at a time.

    ``dtype`` is that of the activations, which fp16 weights become. Returns the bytes read. Raises ``CheckpointError``
    naming missing, unknown and wrongly shaped or typed tensors.
    """
    leaves = {path: m for path, m in model.named_modules() if isinstance(m, Leaf)}
    table = table.chosen(folder.names())
    check_names(folder, table)
    plan = _plan(leaves, folder, table.entries)
    sizes = {path: sum(_taken(folder, entry, slot) for entry, slot in parts) for path, parts in plan.items()}
    done, total = 0, sum(sizes.values())
    for path, leaf in leaves.items():
        wanted = leaf.buffers_wanted()
        if not wanted or (leaf.optional and path not in plan):
            continue
        tensors: dict[str, Tensor] = {}
        for entry, slot in plan[path]:
            if slot.moves:
                _fill(wanted[slot.buffer], slot, folder.read(entry.name), tensors, entry.name, device, dtype)
        assert tensors.keys() == wanted.keys(), f"{path}: the table fills {sorted(tensors)}"
        _check_scales(wanted, plan[path], folder, tensors)
        _prepare(leaf, path, tensors)
        done += sizes[path]
        if progress:
            progress(done, total, path)
    return done


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


def _plan(leaves: Mapping[str, Leaf], folder: CheckpointFolder, entries: Iterable[Entry]) -> Plan:
    """Entries of each leaf with their slots, after checking shapes and types of all."""
    plan: Plan = defaultdict(list)
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


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without sizes of 1 at the end, which formats write or leave out: a scale is [N, 1] or [N], [1] or []."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _taken(folder: CheckpointFolder, entry: Entry, slot: Slot) -> int:
    """Bytes of a tensor that this rank reads."""
    info = folder.info(entry.name)
    empty = torch.empty(slot.shape, dtype=info.dtype, device="meta")
    return sum(empty[take].numel() for take, _ in slot.moves) * info.dtype.itemsize


def _fill(
    wanted: Buffer,
    slot: Slot,
    source: Tensor,
    tensors: dict[str, Tensor],
    name: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    becomes = dtype if source.dtype == torch.float16 and not wanted.half else source.dtype
    buffer = tensors.get(slot.buffer)
    if buffer is None:
        buffer = tensors[slot.buffer] = torch.empty(wanted.shape, dtype=becomes, device=device)
    if buffer.dtype != becomes:
        raise CheckpointError(f"{name} is {becomes}, but tensors that are stacked with it are {buffer.dtype}")
    whole = source.transpose(-1, -2) if slot.transposed else source.view(slot.shape)
    for take, put in slot.moves:
        buffer[put].copy_(whole[take])


def _check_scales(
    wanted: Mapping[str, Buffer],
    parts: Iterable[tuple[Entry, Slot]],
    folder: CheckpointFolder,
    tensors: Mapping[str, Tensor],
) -> None:
    """Refuse factors that are no numbers: one of them spoils every token. They are few enough to look at all."""
    for key, buffer in wanted.items():
        if buffer.scale and not _finite(tensors[key]):
            bad = (e.name for e, slot in parts if slot.buffer == key and not _finite(folder.read(e.name)))
            raise CheckpointError(f"{folder.folder}: {next(bad)} holds scales that are not finite; copy the file again")


def _finite(scales: Tensor) -> bool:
    """uint8 scales are powers of two whose last code means NaN."""
    return bool((scales != 255).all() if scales.dtype == torch.uint8 else scales.float().isfinite().all())


def _prepare(leaf: Leaf, path: str, tensors: dict[str, Tensor]) -> None:
    try:
        leaf.prepare(tensors)
    except ContractError as error:
        raise CheckpointError(f"{path}: its weights cannot be used: {error}") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
