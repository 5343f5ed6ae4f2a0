"""A plan's rows as the inputs of a forward pass, on the device.

Most steps of a busy server differ from the one before only in that every sequence is one token longer. Such a step is
recognised by its bitmap of decodes, which is the one before's and stands alone, and updates the tensors of the previous
step in place: 35 us instead of 370 for one row, 125 instead of 450 for sixteen (two shared Skylake vCPUs).

Legend: T tokens, N rows, B decode rows, P prefill rows, S sampled rows, M pages of the longest row.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor
from ts_modeling import ForwardBatch, StateRows
from ts_protocol.messages import StepPlan
from ts_protocol.wire import IntArray, rows

from ts_runtime.devices import Device
from ts_runtime.errors import PlanError
from ts_runtime.rows import Ints, Limits, Rows, check_rows, expand
from ts_runtime.slots import Slots
from ts_runtime.states import NO_COPIES, Copies, Piece, cut_rows

SPARE_PAGES: Final = 16
"""Columns that block tables have beyond the longest row, so that steady steps can grow into them."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What sampling needs, all [S]."""

    slots: Tensor
    positions: Tensor
    """Where the new tokens stand in their sequences."""
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seeds: Tensor
    greedy: bool
    """Every row has temperature 0."""
    wide: Tensor | None = None
    """Where the vocabulary is cut over ranks: the rows that may draw what is no rank's candidate, int64 [W], if any."""

    def rows(self, chosen: Tensor) -> "Draw":
        """Some of them, none of them greedy."""

        def some(column: Tensor) -> Tensor:
            return column.index_select(0, chosen)

        return Draw(
            slots=some(self.slots),
            positions=some(self.positions),
            temperature=some(self.temperature),
            top_k=some(self.top_k),
            top_p=some(self.top_p),
            seeds=some(self.seeds),
            greedy=False,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step's inputs; the next step may reuse their memory."""

    batch: ForwardBatch
    draw: Draw
    loads: Copies = NO_COPIES
    """States to copy before the step, and behind it."""
    saves: Copies = NO_COPIES
    before: tuple[tuple[ForwardBatch, Copies], ...] = ()
    """Passes before the last one, of rows that are cut at a checkpoint, with the states to copy behind each."""


class Packing(Protocol):
    """Brings integer arrays to the device."""

    def pack(self, *arrays: Any) -> tuple[Tensor, ...]:
        """Each array as a device tensor."""


class Once:
    """Brings several integer arrays to the device in memory of their own."""

    def __init__(self, device: Device, dtype: type[np.integer[Any]]) -> None:
        self._device, self._dtype = device, dtype

    def pack(self, *arrays: Any) -> tuple[Tensor, ...]:
        """Each array as a device tensor."""
        joined = np.concatenate(arrays).astype(self._dtype, copy=False)
        return torch.split(self._device.mirror(joined), [len(array) for array in arrays])


class Packer:
    """Brings several integer arrays to the device as one copy; its host memory is used in turns."""

    def __init__(self, device: Device, size: int, dtype: torch.dtype) -> None:
        self._device = device
        self._hosts = [device.host(size, dtype) for _ in range(device.in_flight)]
        self._arrays: list[Any] = [host.numpy() for host in self._hosts]
        self._turn = 0
        self._staged = self._hosts[0][:0]

    def pack(self, *arrays: Any) -> tuple[Tensor, ...]:
        """Each array as a device tensor."""
        sizes = [len(array) for array in arrays]
        total = sum(sizes)
        self._turn = (self._turn + 1) % len(self._hosts)
        np.concatenate(arrays, out=self._arrays[self._turn][:total], casting="same_kind")
        self._staged = self._device.stage(self._hosts[self._turn][:total])
        return torch.split(self._staged, sizes)

    def advance(self, count: int) -> Any:
        """What was packed, with one added to the first ``count`` elements; change it further, then ``flush``."""
        last = self._arrays[self._turn]
        self._turn = (self._turn + 1) % len(self._hosts)
        array = self._arrays[self._turn]
        if array is not last:
            array[: len(self._staged)] = last[: len(self._staged)]
        array[:count] += 1
        return array

    def flush(self) -> None:
        """Bring the changes to the tensors that ``pack`` gave."""
        self._device.restage(self._hosts[self._turn], self._staged)


@dataclass(slots=True)
class Steady:
    """A step of nothing but decodes, from which the next is made in place if it has the same slots."""

    decodes: bytes
    rows: Rows
    prepared: Prepared
    tables: Tensor
    """Columns of the slots' block tables from which the batch's are gathered."""
    steps: int = 0
    """Tokens that each sequence has grown since ``rows``."""
    room: int = 0
    """Steps that may follow without another look at the limits."""


class Stager:
    """Turns plans into inputs, over the slots' mirror. Remembers the previous step.

    ``candidates`` is how many tokens of each rank a draw is among; 0 where no rank lacks a part of the vocabulary.
    """

    def __init__(self, slots: Slots, limits: Limits, *, candidates: int, device: Device) -> None:
        self._slots = slots
        self._limits = limits
        self._candidates = candidates
        self._device = device
        self._once = (Once(device, np.int64), Once(device, np.int32))
        self._wide = Packer(device, 2 * limits.max_tokens + 6 * slots.count, torch.int64)
        self._narrow = Packer(device, limits.max_tokens + 2 * slots.count + 1, torch.int32)
        self._steady: Steady | None = None

    def stage(self, plan: StepPlan, frames: list[IntArray]) -> Prepared | None:
        """Take the plan's changes and bring its inputs to the device; ``None`` when it has no rows.

        Raises:
            PlanError: the plan contradicts the worker's state or limits.
        """
        frame, tokens, pages, states = frames
        if len(states) and not self._slots.num_states:
            raise PlanError("the plan copies running states; this worker has full attention alone")
        if self._steady is not None and (plan.admits or plan.releases):
            self._leave(self._steady)
        self._slots.apply(plan, rows(pages, 4))
        if self._steady is not None:
            if not len(tokens) + len(frame) + len(states) and self._follows(self._steady, plan.decodes):
                return self._advance(self._steady, grown=len(pages) > 0)
            self._leave(self._steady)
        matrix = expand(rows(frame, 4), plan.decodes, self._slots)
        if not len(matrix):
            if len(states):
                raise PlanError("the plan copies running states and has no rows")
            return None
        checked = check_rows(matrix, tokens, self._slots, self._limits)
        if self._slots.num_states:
            prepared = self._prepare_pieces(*cut_rows(rows(states, 5), checked, tokens, self._slots))
        else:
            prepared = self._prepare(checked, tokens)
        self._slots.length[checked.slots] = checked.ends
        self._slots.fed[checked.slots] = checked.sampled
        if not len(frame) + len(states):
            self._steady = Steady(plan.decodes, checked, prepared, self._tables(checked))
        return prepared

    # --- the general step -----------------------------------------------------------------------------------------

    def _prepare_pieces(self, loads: Copies, pieces: list[Piece]) -> Prepared:
        """The last piece as any step; those before it, which are rare, in memory of their own."""
        *first, last = pieces
        before = tuple((self._batch(p.rows, p.tokens, *self._once)[0], p.saves) for p in first)
        return replace(self._prepare(last.rows, last.tokens), loads=loads, saves=last.saves, before=before)

    def _prepare(self, r: Rows, host_tokens: IntArray) -> Prepared:
        """Two copies to the device, whatever the plan; block tables and decode tokens are gathered there."""
        batch, slots_S, positions_S = self._batch(r, host_tokens, self._wide, self._narrow)
        return Prepared(batch, self._draw(slots_S, positions_S, r.slots[r.sampled]))

    def _batch(
        self, r: Rows, host_tokens: IntArray, wide: Packing, narrow: Packing
    ) -> tuple[ForwardBatch, Tensor, Tensor]:
        """The forward pass, and slots and positions of the rows that sample."""
        n, stops = r.n_decode, np.cumsum(r.counts)
        positions, slot_mapping = self._places(r, stops)
        tokens = np.concatenate((r.slots[:n], host_tokens)) if n else host_tokens  # the first n are overwritten below
        seq_lens_N, tokens_T, cu_q = narrow.pack(r.ends, tokens, np.append(0, stops[n:] - n))
        positions_T, slot_mapping_T, positions_S, slots_N, slots_S, indices_S, *states = wide.pack(
            positions,
            slot_mapping,
            r.ends[r.sampled],
            r.slots,
            r.slots[r.sampled],
            stops[r.sampled] - 1,
            *self._state_rows(r),
        )
        if n:
            torch.index_select(self._slots.last_token_dev, 0, slots_N[:n], out=tokens_T[:n])
        tables_NM = self._tables(r).index_select(0, slots_N)
        batch = ForwardBatch(
            tokens=tokens_T,
            positions=positions_T,
            slot_mapping=slot_mapping_T,
            n_decode=n,
            decode_block_tables=tables_NM[:n],
            decode_seq_lens=seq_lens_N[:n],
            prefill_cu_q=cu_q,
            prefill_block_tables=tables_NM[n:],
            prefill_seq_lens=seq_lens_N[n:],
            sample_indices=None if len(slots_S) == r.n_tokens else indices_S,
            states=StateRows(states[0][:n], states[0][n:], states[1].bool()) if states else None,
        )
        return batch, slots_S, positions_S

    def _state_rows(self, r: Rows) -> tuple[Ints, ...]:
        """Pages of the rows' states, and which prefill rows begin from the empty one."""
        return (self._slots.states[r.slots], r.starts[r.n_decode :] == 0) if self._slots.num_states else ()

    def _draw(self, slots_S: Tensor, positions_S: Tensor, sampled: Ints) -> Draw:
        slots = self._slots
        greedy = bool(slots.greedy[sampled].all())
        return Draw(
            slots=slots_S,
            positions=positions_S,
            temperature=slots.temperature_dev.index_select(0, slots_S),
            top_k=slots.top_k_dev.index_select(0, slots_S),
            top_p=slots.top_p_dev.index_select(0, slots_S),
            seeds=slots.seed_dev.index_select(0, slots_S),
            greedy=greedy,
            wide=self._beyond_candidates(sampled) if self._candidates and not greedy else None,
        )

    def _beyond_candidates(self, sampled: Ints) -> Tensor | None:
        """Rows that are neither greedy nor kept to the candidates by their ``top_k``."""
        top_k = self._slots.top_k[sampled]
        (wide,) = np.nonzero(~self._slots.greedy[sampled] & ((top_k < 1) | (top_k > self._candidates)))
        return self._device.mirror(wide) if len(wide) else None

    def _places(self, r: Rows, stops: Ints) -> tuple[Ints, Ints]:
        """Position of each token in its sequence, and of its cache entry in the pool."""
        if r.n_decode == len(r.slots):
            return r.starts, self._entries(r.slots, r.starts)
        positions = np.arange(r.n_tokens) + np.repeat(r.ends - stops, r.counts)
        return positions, self._entries(np.repeat(r.slots, r.counts), positions)

    def _entries(self, slots: Ints, positions: Ints) -> Ints:
        pages, offsets = np.divmod(positions, self._limits.page_size)
        entries: Ints = self._slots.pages[slots, pages] * np.int64(self._limits.page_size) + offsets
        return entries

    def _tables(self, r: Rows) -> Tensor:
        """The block tables' columns that the rows need, and some to grow into."""
        longest = -(-int(r.ends.max()) // self._limits.page_size)
        return self._slots.pages_dev[:, : longest + SPARE_PAGES]

    # --- the steady step ------------------------------------------------------------------------------------------

    def _follows(self, s: Steady, decodes: bytes) -> bool:
        """Whether a step has the remembered decodes, one token on, and within the limits."""
        if decodes != s.decodes:
            return False
        if s.room == 0:
            s.room = self._room(s)
        return s.room > 0

    def _room(self, s: Steady) -> int:
        """Tokens that every row may grow by: its pages, the gathered tables and ``max_model_len`` hold them."""
        pages = np.minimum(self._slots.page_count[s.rows.slots], s.tables.shape[1])
        lengths = np.minimum(pages * self._limits.page_size, self._limits.max_model_len)
        return int((lengths - s.rows.ends).min()) - s.steps

    def _advance(self, s: Steady, *, grown: bool) -> Prepared:
        """The same batch with every sequence one token longer, in place; ``grown`` when pages have been added."""
        n, batch, slots_N = len(s.rows.slots), s.prepared.batch, s.prepared.draw.slots
        s.steps += 1
        s.room -= 1
        wide = self._wide.advance(3 * n)  # positions, cache entries, positions of the new tokens
        (turned,) = np.nonzero(wide[:n] % self._limits.page_size == 0)
        if len(turned):  # these rows begin a page
            wide[n + turned] = self._entries(s.rows.slots[turned], wide[turned])
        self._wide.flush()
        self._narrow.advance(n)  # sequence lengths
        self._narrow.flush()
        if grown:
            torch.index_select(s.tables, 0, slots_N, out=batch.decode_block_tables)
        torch.index_select(self._slots.last_token_dev, 0, slots_N, out=batch.tokens)
        return s.prepared

    def _leave(self, s: Steady) -> None:
        """The next step is a general one: it has to find the lengths."""
        self._slots.length[s.rows.slots] = s.rows.ends + s.steps
        self._steady = None
