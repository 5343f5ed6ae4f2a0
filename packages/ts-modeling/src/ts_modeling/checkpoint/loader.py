"""From a checkpoint folder into a model's leaves: each rank reads its own part, once."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from ts_kernels import ContractError

from ..errors import CheckpointError
from ..layers.leaf import Builder, Leaf, SharedLeaf, WholeBuilder
from .checks import check_names, check_says, check_scale, refuse_misfits
from .folder import CheckpointFolder
from .plan import Batch, LeafPlan, Planner
from .pool import Pool, made_of, take_from
from .reading import fetched
from .safetensors import SafetensorsFile
from .table import Entry, Table

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in total, and what is being loaded."""
THREADS: Final = range(2, 9)
"""Two, so that one waits for a disk while another packs; beyond eight they wait for the interpreter."""
NEAR: Final = 1 << 16
"""Bytes between tensors that are asked for, and forgotten, with them."""
AHEAD: Final = 16
"""Batches whose pages are asked for before they are needed."""


@dataclass(frozen=True, slots=True)
class Job:
    """A leaf, the tensors that fill it, and how."""

    path: str
    leaf: Leaf
    names: tuple[str, ...]
    plan: LeafPlan

    @property
    def nbytes(self) -> int:
        """Bytes that this rank reads."""
        return sum(batch.nbytes for batch in self.plan.batches)


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

    Several threads take pieces of about 2 MB, and pack them where they are mapped. ``dtype`` is that of the
    activations, which fp16 weights become. Leaves take what ``pool`` has of theirs, and leave there what others may
    take. Returns the bytes read. Raises ``CheckpointError`` naming missing, unknown and wrongly shaped or typed
    tensors.
    """
    leaves = {path: m for path, m in model.named_modules() if isinstance(m, Leaf)}
    table = table.chosen(folder.names())
    check_names(folder, table)
    every = _jobs(leaves, folder, table.entries, dtype)
    for leaf in leaves.values():
        leaf.begin()
    shared = pool if pool is not None else {}
    left = take_from(shared, [(made_of(job, folder, dtype, device), job) for job in every])
    done, total = 0, sum(job.nbytes for _, job in left)
    with ThreadPoolExecutor(min(max(torch.get_num_threads(), THREADS.start), THREADS.stop - 1)) as threads:
        started = _start(threads, [job for _, job in left], folder, device)
        try:
            for (key, job), (builder, batches) in zip(left, started, strict=True):
                for batch in batches:
                    batch.result()
                _used(job.path, builder.finish)
                if isinstance(job.leaf, SharedLeaf):
                    shared[key] = job.leaf
                done += job.nbytes
                if progress:
                    progress(done, total, job.path)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return done


def _jobs(leaves: dict[str, Leaf], folder: CheckpointFolder, entries: Sequence[Entry], dtype: torch.dtype) -> list[Job]:
    """Leaves with weights, in the model's order. Raises ``CheckpointError`` naming tensors that do not fit."""
    tensors: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        tensors[entry.module].append(entry)
    planner, jobs = Planner(dtype), []
    for path, leaf in leaves.items():
        found = tensors.get(path, ())
        if not leaf.buffers_wanted() or (leaf.optional and not found):
            continue
        names, parts = tuple(e.name for e in found), [e.part for e in found]
        plan = planner.plan(leaf, names, parts, [folder.info(name) for name in names])
        if plan:
            jobs.append(Job(path, leaf, names, plan))
    refuse_misfits(folder, planner.problems)
    return jobs


def _start(
    threads: ThreadPoolExecutor, jobs: Sequence[Job], folder: CheckpointFolder, device: torch.device
) -> list[tuple[Builder, list[Future[None]]]]:
    """Begin to read all batches in their order."""
    order = [(job, batch) for job in jobs for batch in job.plan.batches]
    for job, batch in order[:AHEAD]:
        _ask_for(job, batch, folder)
    later = iter(order[AHEAD:])

    def read(job: Job, batch: Batch, builder: Builder) -> None:
        coming = next(later, None)
        if coming:
            _ask_for(*coming, folder)
        _read(job, batch, builder, folder, device)

    out = []
    for job in jobs:
        builder = WholeBuilder(job.leaf) if job.plan.whole else job.leaf.builder()
        out.append((builder, [threads.submit(read, job, batch, builder) for batch in job.plan.batches]))
    return out


def _read(job: Job, batch: Batch, builder: Builder, folder: CheckpointFolder, device: torch.device) -> None:
    """Bring the pieces of one batch."""
    names, slots = job.names, job.plan.slots
    for number, numbers in batch.says:
        check_says(folder, names[number], numbers)
    for piece, fetches in batch.run:
        tensors: dict[str, Tensor] = {}
        for fetch in fetches:
            tensors[fetch.buffer] = tensor = fetched(fetch, names, slots, folder, device)
            if fetch.scale:
                check_scale(folder, tensor, (names[move.number] for move in fetch.moves))
        _used(job.path, builder.take, piece, tensors)
    for file, start, end in _ranges(job, batch, folder):
        file.forget(start, end)


def _ask_for(job: Job, batch: Batch, folder: CheckpointFolder) -> None:
    for file, start, end in _ranges(job, batch, folder):
        file.ask_for(start, end)


def _used(path: str, use: Callable[..., None], *arguments: object) -> None:
    try:
        use(*arguments)
    except ContractError as error:
        raise CheckpointError(f"{path}: its weights cannot be used: {error}") from None


def _ranges(job: Job, batch: Batch, folder: CheckpointFolder) -> list[tuple[SafetensorsFile, int, int]]:
    """Bytes of files that a batch takes, those that lie side by side together, as tensors of one type often do."""
    spans: dict[SafetensorsFile, list[tuple[int, int]]] = defaultdict(list)
    for number, start, end in batch.spans:
        file, stored = folder.find(job.names[number])
        at = file.tensors[stored].start
        spans[file].append((at + start, at + end))
    out: list[tuple[SafetensorsFile, int, int]] = []
    for file, parts in spans.items():
        first, last = min(parts)
        for start, end in sorted(parts):
            if start > last + NEAR:
                out.append((file, first, last))
                first = start
            last = max(last, end)
        out.append((file, first, last))
    return out
