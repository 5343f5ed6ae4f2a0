"""A toy worker's memory of one cache group."""

import random

from ts_scheduler import CacheGroup

from .model import MODULUS, advance, digest, window_entry


class ToyGroup:
    """A worker's pages of one group: an integer for each token of a window group, one for each state."""

    def __init__(self, index: int, group: CacheGroup, page_size: int, rng: random.Random) -> None:
        self.index, self.group, self.page_size = index, group, page_size
        width = page_size if group.kind == "window" else 1
        self.cache = [[rng.randrange(MODULUS) for _ in range(width)] for _ in range(group.num_pages)]
        self.tables: dict[int, dict[int, int]] = {}
        self.saves: dict[tuple[int, int], int] = {}
        self.passed: dict[int, int] = {}
        """The states at the positions of the row under way."""

    def start(self, admits: list[int], pages: list[list[int]], states: list[list[int]]) -> None:
        """Take a plan's entries of this group."""
        for slot in admits:
            self.tables[slot] = {}
        for slot, _, block, page in pages:
            assert self.group.kind == "window" or (block, self.tables[slot]) == (0, {})
            self.tables[slot][block] = page
        if self.group.kind == "state":
            for slot in admits:
                self.cache[self.tables[slot][0]][0] = 0
        for slot, _, page, _, save in states:
            if not save:
                self.cache[self.tables[slot][0]][0] = self.cache[page][0]
        self.saves = {(slot, position): page for slot, _, page, position, save in states if save}

    def before(self, slot: int, position: int, token: int) -> int:
        """What the token at a position sees of this group."""
        table = self.tables[slot]
        if self.group.kind == "window":
            seen = range(max(position + 1 - self.group.window, 0), position)
            return digest([self.cache[table[at // self.page_size]][at % self.page_size] for at in seen])
        self.cache[table[0]][0] = advance(self.cache[table[0]][0], token, self.index)
        return self.cache[table[0]][0]

    def after(self, slot: int, position: int, entry: int) -> None:
        """What this group keeps of it."""
        table = self.tables[slot]
        if self.group.kind == "window":
            page = self.cache[table[position // self.page_size]]
            page[position % self.page_size] = window_entry(entry, self.index)
            return
        self.passed[position + 1] = self.cache[table[0]][0]
        if (slot, position + 1) in self.saves:
            self.cache[self.saves.pop((slot, position + 1))][0] = self.cache[table[0]][0]

    def rewind(self, slot: int, length: int) -> None:
        """After a row: what its rejected drafts did to the state is undone."""
        if self.group.kind == "state":
            self.cache[self.tables[slot][0]][0] = self.passed[length]
            self.passed.clear()
