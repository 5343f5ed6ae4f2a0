"""A worker that executes plans on the toy model and checks what a plan promises."""

import random
from collections.abc import Iterator

from ts_protocol.messages import ROW_SAMPLE, ROW_TOKEN_ON_DEVICE
from ts_scheduler import Config, Transfer

from .groups import ToyGroup
from .model import MODULUS, VOCAB, entry_of, sample
from .plans import Sent


class ToyWorker:
    """Executes plans as ``ts_protocol.messages.StepPlan`` says, with one integer for a token's keys and values.

    Its drafts are right as often as not. All of a row's drafts are written before any is checked.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.page_size = config.page_size
        self.chunk_tokens = config.chunk_tokens
        self.drafts = config.draft_tokens
        self.cache = [[rng.randrange(MODULUS) for _ in range(config.page_size)] for _ in range(config.num_pages)]
        self.host: list[list[int]] = [[rng.randrange(MODULUS)] * config.page_size for _ in range(config.host_pages)]
        self.tables: dict[int, list[int]] = {}
        self.last: dict[int, int] = {}
        self.length: dict[int, int] = {}
        self.rng = rng
        self.groups = [ToyGroup(index, group, config.page_size, rng) for index, group in enumerate(config.groups)]

    def run(self, plan: Sent) -> list[list[int]]:
        """The tokens of each sampling row."""
        for slot in plan.releases:
            del self.tables[slot]
        for slot in plan.admits:
            self.tables[slot] = []
            self.length.pop(slot, None)
        for slot, group, block, page in plan.pages:
            if group == 0:
                assert block == len(self.tables[slot])
                assert page not in self.tables[slot]
                self.tables[slot].append(page)
        for number, held in enumerate(self.groups, start=1):
            own = [[entry for entry in entries if entry[1] == number] for entries in (plan.pages, plan.states)]
            held.start(plan.admits, *own)
        flags = ROW_SAMPLE | ROW_TOKEN_ON_DEVICE
        rows = [[slot, self.length[slot], 1 + self.drafts, flags] for slot in plan.decodes] + plan.rows
        assert len({row[0] for row in rows}) == len(rows), "a slot has at most one row"
        assert sum(row[2] for row in rows) <= self.chunk_tokens
        kinds = [bool(row[3] & ROW_TOKEN_ON_DEVICE) for row in rows]
        assert kinds == sorted(kinds, reverse=True), "decodes come first"
        fed = iter(plan.tokens)
        sampled = [self._row(slot, start, count, flags, fed) for slot, start, count, flags in rows]
        assert next(fed, None) is None
        assert not any(group.saves for group in self.groups), "each checkpoint is passed by its row"
        return [tokens for tokens in sampled if tokens]

    def _row(self, slot: int, start: int, count: int, flags: int, fed: Iterator[int]) -> list[int]:
        if flags & ROW_TOKEN_ON_DEVICE:
            assert self.length[slot] <= start, "a row starts where the accepted tokens end, or before"
            start = self.length[slot]
            sampled = self._decode(slot, start, count)
        else:
            assert self.length.get(slot, start) == start
            for position in range(start, start + count):
                self._write(slot, position, next(fed))
            sampled = [self._sample(slot, start + count)] if flags & ROW_SAMPLE else []
        spare = len(self.tables[slot]) - -(-(start + count) // self.page_size)
        assert spare == 0 or (spare > 0 and self.drafts > 0), "as many pages as the row needs"
        self.length[slot] = start + (len(sampled) if flags & ROW_TOKEN_ON_DEVICE else count)
        for group in self.groups:
            group.rewind(slot, self.length[slot])
        if sampled:
            self.last[slot] = sampled[-1]
        return sampled

    def _decode(self, slot: int, start: int, count: int) -> list[int]:
        """The accepted drafts, and the token that follows them."""
        token, drafts = self.last[slot], []
        for position in range(start, start + count):
            self._write(slot, position, token)
            right = self._sample(slot, position + 1)
            token = right if self.rng.random() < 0.5 else self.rng.randrange(VOCAB)
            drafts.append((token, right))
        wrong = next((i for i, (draft, right) in enumerate(drafts) if draft != right), count - 1)
        return [right for _, right in drafts[: wrong + 1]]

    def _write(self, slot: int, position: int, token: int) -> None:
        table = self.tables[slot]
        before = self._read(table, position - 1) if position else 0
        page = table[position // self.page_size]
        assert not any(page in other for key, other in self.tables.items() if key != slot), "written while shared"
        self.cache[page][position % self.page_size] = entry = entry_of(
            token, position, before, [group.before(slot, position, token) for group in self.groups]
        )
        for group in self.groups:
            group.after(slot, position, entry)

    def _sample(self, slot: int, length: int) -> int:
        return sample([self._read(self.tables[slot], position) for position in range(length)])

    def begin(self, transfer: Transfer) -> None:
        """What arrives is garbage until it is complete."""
        for device, host in transfer.pages.tolist():
            if transfer.kind in ("load", "receive"):
                self.cache[device] = [self.rng.randrange(MODULUS) for _ in range(self.page_size)]
            elif transfer.kind == "store":
                self.host[host] = [self.rng.randrange(MODULUS) for _ in range(self.page_size)]

    def complete(self, transfer: Transfer, entries: list[int]) -> None:
        """Move the pages; a peer has, or gets, the request's ``entries``."""
        first = -(-transfer.tokens // self.page_size) - len(transfer.pages)
        for block, (device, host) in enumerate(transfer.pages.tolist(), start=first):
            theirs = entries[block * self.page_size : (block + 1) * self.page_size]
            if transfer.kind == "load":
                self.cache[device] = list(self.host[host])
            elif transfer.kind == "store":
                self.host[host] = list(self.cache[device])
            elif transfer.kind == "receive":
                self.cache[device][: len(theirs)] = theirs
            else:
                assert self.cache[device][: len(theirs)] == theirs, "what a peer reads is the request's"

    def _read(self, table: list[int], position: int) -> int:
        return self.cache[table[position // self.page_size]][position % self.page_size]
