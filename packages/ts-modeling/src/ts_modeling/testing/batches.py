"""Forward batches over sequences whose pages are scattered, so that a missing indirection shows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import ForwardBatch, StateRows

Row = tuple[int, Sequence[int]]
"""A sequence, and the tokens that one step feeds to it."""


class Sequences:
    """Lengths, shuffled block tables and state slots of ``count`` sequences of up to ``max_length`` tokens."""

    def __init__(self, count: int, max_length: int, *, page_size: int = 4, seed: int = 0) -> None:
        self.page_size = page_size
        per_row = -(-max_length // page_size)
        self.num_pages = count * per_row + 1
        order = torch.randperm(self.num_pages - 1, generator=torch.Generator().manual_seed(seed)) + 1
        self.tables = order.to(torch.int32).view(count, per_row)
        self.lengths = [0] * count
        self.num_states = count + 1
        self.slots = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) + 1

    def batch(self, *, decodes: Sequence[Row] = (), prefills: Sequence[Row] = (), every: bool = True) -> ForwardBatch:
        """One step; decode rows carry one token each. ``every`` asks for all logits, else for each row's last ones."""
        assert all(len(tokens) == 1 for _, tokens in decodes)
        tokens, positions, slots, ends = list[int](), list[int](), list[int](), [0]
        for row, new in (*decodes, *prefills):
            start = self.lengths[row]
            self.lengths[row] += len(new)
            tokens += new
            positions += range(start, self.lengths[row])
            slots += [self._slot(row, p) for p in range(start, self.lengths[row])]
            ends.append(len(tokens))
        fresh = [self.lengths[row] == len(new) for row, new in prefills]
        cu_q = [end - len(decodes) for end in ends[len(decodes) :]]
        return ForwardBatch(
            tokens=torch.tensor(tokens, dtype=torch.int32),
            positions=torch.tensor(positions, dtype=torch.int64),
            slot_mapping=torch.tensor(slots, dtype=torch.int64),
            n_decode=len(decodes),
            decode_block_tables=self._tables(decodes),
            decode_seq_lens=self._lengths(decodes),
            prefill_cu_q=torch.tensor(cu_q, dtype=torch.int32),
            prefill_block_tables=self._tables(prefills),
            prefill_seq_lens=self._lengths(prefills),
            sample_indices=None if every else torch.tensor(ends[1:], dtype=torch.int64) - 1,
            states=StateRows(self._slots(decodes), self._slots(prefills), torch.tensor(fresh, dtype=torch.bool)),
        )

    def _slot(self, row: int, position: int) -> int:
        page, offset = divmod(position, self.page_size)
        return int(self.tables[row, page]) * self.page_size + offset

    def _slots(self, rows: Sequence[Row]) -> Tensor:
        return self.slots[[row for row, _ in rows]]

    def _tables(self, rows: Sequence[Row]) -> Tensor:
        return self.tables[[row for row, _ in rows]].contiguous()

    def _lengths(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([self.lengths[row] for row, _ in rows], dtype=torch.int32)
