"""From a checkpoint folder into a model's leaves: each rank reads its own part, once."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from ts_kernels import ContractError, gemm

from ..errors import CheckpointError
from ..layers.leaf import Builder, Leaf, SharedLeaf, WholeBuilder
from ..layers.stack import PIECE
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
"""Tasks whose pages are asked for before they are needed."""


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


Task = list[tuple[Job, Batch, Builder]]
"""What a thread brings at a time: about ``PIECE`` bytes, of several leaves where they are small."""


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
    """Begin to read all batches in their order; of each job what makes it, and the tasks that have a part of it."""
    builders = [WholeBuilder(job.leaf) if job.plan.whole else job.leaf.builder() for job in jobs]
    out: list[tuple[Builder, list[Future[None]]]] = [(builder, []) for builder in builders]
    groups: list[tuple[list[int], Task]] = []
    room = 0
    for number, (job, builder) in enumerate(zip(jobs, builders, strict=True)):
        for batch in job.plan.batches:
            if not groups or batch.nbytes > room:
                groups.append(([], []))
                room = PIECE
            room -= batch.nbytes
            groups[-1][0].append(number)
            groups[-1][1].append((job, batch, builder))
    tasks = [task for _, task in groups]
    for task in tasks[:AHEAD]:
        _ask_for(task, folder)
    later = iter(tasks[AHEAD:])

    def read(task: Task) -> None:
        coming = next(later, None)
        if coming:
            _ask_for(coming, folder)
        _read(task, folder, device)

    for numbers, task in groups:
        future = threads.submit(read, task)
        for number in dict.fromkeys(numbers):
            out[number][1].append(future)
    return out


def _read(task: Task, folder: CheckpointFolder, device: torch.device) -> None:
    """Bring the pieces of some batches: first all that is Python's, then the packing.

    Each step is taken for all of them before the next: a view took 16 us so and 31 in turn with the steps that follow,
    a check of scales 29 and 51 (in a loop of nothing else 3 and 10; AMD EPYC).
    """
    for job, batch, _ in task:
        for number, numbers in batch.says:
            check_says(folder, job.names[number], numbers)
    brought = [
        (job, builder, piece, fetches, {f.buffer: fetched(f, job.names, folder, device) for f in fetches})
        for job, batch, builder in task
        for piece, fetches in batch.run
    ]
    for job, _, _, fetches, tensors in brought:
        for fetch in fetches:
            if fetch.scale:
                check_scale(folder, tensors[fetch.buffer], (job.names[move.number] for move in fetch.moves))
    runs = gemm.Runs()
    for job, builder, piece, _, tensors in brought:  # what a leaf takes of `tensors` nothing else holds
        _used(job.path, builder.take, piece, tensors, runs)
    runs.pack()
    for file, start, end in _ranges(task, folder):
        file.forget(start, end)


def _ask_for(task: Task, folder: CheckpointFolder) -> None:
    for file, start, end in _ranges(task, folder):
        file.ask_for(start, end)


def _used(path: str, use: Callable[..., None], *arguments: object) -> None:
    try:
        use(*arguments)
    except ContractError as error:
        raise CheckpointError(f"{path}: its weights cannot be used: {error}") from None


def _ranges(task: Task, folder: CheckpointFolder) -> list[tuple[SafetensorsFile, int, int]]:
    """Bytes of files that a task takes, those that lie side by side together, as tensors of one type often do."""
    spans: dict[SafetensorsFile, list[tuple[int, int]]] = defaultdict(list)
    for job, batch, _ in task:
        for number, start, end in batch.spans:
            file, stored = folder.find(job.names[number])
            at = file.tensors[stored].start
            spans[file].append((at + start, at + end))
    out: list[tuple[SafetensorsFile, int, int]] = []
    for file, parts in spans.items():
        parts.sort()
        first, last = parts[0]
        for start, end in parts:
            if start > last + NEAR:
                out.append((file, first, last))
                first = start
            last = max(last, end)
        out.append((file, first, last))
    return out
