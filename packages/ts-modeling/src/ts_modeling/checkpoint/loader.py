"""From a checkpoint folder into a model's leaves: each rank reads its own part, once."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from ts_kernels import ContractError

from ..errors import CheckpointError
from ..layers.leaf import Buffer, Leaf, SharedLeaf, Slot
from .checks import Part, check_names, check_scales, plan_of
from .folder import CheckpointFolder
from .pool import Pool, made_of, take_from
from .scratch import Scratch, words
from .table import Entry, Table

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in total, and what is being loaded."""


def load_weights(
    model: nn.Module,
    folder: CheckpointFolder,
    table: Table,
    *,
    device: torch.device,
    progress: Progress | None,
    dtype: torch.dtype = torch.float32,
    pool: Pool | None = None,
) -> int:
    """Fill every leaf of ``model`` with this rank's part and prepare it.

    A second thread copies the next leaf's raw tensors meanwhile, so those of two leaves are held at a time. ``dtype``
    is that of the activations, which fp16 weights become. Leaves take what ``pool`` has of theirs, and leave there what
    others may take. Returns the bytes read. Raises ``CheckpointError`` naming
    missing, unknown and wrongly shaped or typed tensors.
    """
    leaves = {path: m for path, m in model.named_modules() if isinstance(m, Leaf)}
    table = table.chosen(folder.names())
    check_names(folder, table)
    plan = plan_of(leaves, folder, table.entries)
    for leaf in leaves.values():
        leaf.begin()
    wanting = {path: leaf for path, leaf in leaves.items() if leaf.buffers_wanted()}
    every = [(path, leaf, plan[path]) for path, leaf in wanting.items() if path in plan or not leaf.optional]
    shared = pool if pool is not None else {}
    left = take_from(shared, [(made_of(job, folder, dtype, device), job) for job in every])
    jobs = [job for _, job in left]
    sizes = [sum(_taken(folder, entry, slot) for entry, slot in parts) for _, _, parts in jobs]
    done, places = 0, (Scratch(device), Scratch(device))
    with ThreadPoolExecutor(1) as reader:

        def read(index: int) -> Future[dict[str, Tensor]]:
            return reader.submit(_read, *jobs[index], folder, places[index % 2], dtype)

        coming = read(0)
        for index, (path, leaf, _) in enumerate(jobs):
            tensors = coming.result()
            if index + 1 < len(jobs):
                coming = read(index + 1)
            _prepare(path, leaf, tensors)
            places[index % 2].release(type(leaf))
            if isinstance(leaf, SharedLeaf):
                shared[left[index][0]] = leaf
            done += sizes[index]
            if progress:
                progress(done, sum(sizes), path)
    return done


def _read(
    path: str, leaf: Leaf, parts: Sequence[Part], folder: CheckpointFolder, place: Scratch, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A leaf's buffers, filled."""
    for entry, slot in parts:
        if slot.moves:
            folder.ask_for(entry.name)
    wanted = leaf.buffers_wanted()
    types = _types(wanted, parts, folder, dtype)
    assert types.keys() == wanted.keys(), f"{path}: the table fills {sorted(types)}"
    tensors = place.tensors(type(leaf), {name: (wanted[name].shape, types[name]) for name in wanted})
    for entry, slot in parts:
        if slot.moves:
            _fill(tensors[slot.buffer], slot, folder.read(entry.name))
            folder.forget(entry.name)
    check_scales(wanted, parts, folder, tensors)
    folder.forget_files(entry.name for entry, slot in parts if slot.moves)
    return tensors


def _prepare(path: str, leaf: Leaf, tensors: dict[str, Tensor]) -> None:
    try:
        leaf.prepare(tensors)
    except ContractError as error:
        raise CheckpointError(f"{path}: its weights cannot be used: {error}") from None
    tensors.clear()


def _types(
    wanted: Mapping[str, Buffer], parts: Sequence[Part], folder: CheckpointFolder, dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """Type of each buffer: that of the tensors which fill it, but fp16 weights become ``dtype``."""
    out: dict[str, torch.dtype] = {}
    for entry, slot in parts:
        if slot.moves:
            stored = folder.info(entry.name).dtype
            held = dtype if stored == torch.float16 and not wanted[slot.buffer].half else stored
            if out.setdefault(slot.buffer, held) != held:
                raise CheckpointError(
                    f"{entry.name} is {held}, but tensors that are stacked with it are {out[slot.buffer]}"
                )
    return out


def _fill(buffer: Tensor, slot: Slot, source: Tensor) -> None:
    """Copy in this thread where types agree: torch's threads wait for one another after each small piece."""
    whole = source.transpose(-1, -2) if slot.transposed else source.view(slot.shape)
    for take, put in slot.moves:
        if buffer.device.type == "cpu" and buffer.dtype == source.dtype:
            np.copyto(words(buffer)[put], words(whole)[take])
        else:
            buffer[put].copy_(whole[take])


def _taken(folder: CheckpointFolder, entry: Entry, slot: Slot) -> int:
    """Bytes of a tensor that this rank reads."""
    info = folder.info(entry.name)
    empty = torch.empty(slot.shape, dtype=info.dtype, device="meta")
    return sum(empty[take].numel() for take, _ in slot.moves) * info.dtype.itemsize
