"""Turns token documents into fixed-length training rows, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .tokenizer import PAD

Ids = npt.NDArray[np.uint16]


def save_docs(path: Path, docs: list[list[int]]) -> None:
    """Write documents as one flat array plus offsets."""
    flat = np.concatenate([np.asarray(d, dtype=np.uint16) for d in docs])
    np.savez(path, flat=flat, ends=np.cumsum([len(d) for d in docs]))


def load_docs(path: Path) -> list[Ids]:
    """Read what ``save_docs`` wrote."""
    with np.load(path) as data:
        return np.split(data["flat"], data["ends"][:-1])


class Stream:
    """Documents in a new order each epoch, joined and cut into rows; rows come out shuffled."""

    def __init__(self, docs: list[Ids], *, seed: int) -> None:
        self.docs, self.seed, self.epoch = docs, seed, 0
        self._rows: dict[int, Ids] = {}
        self.tokens = 0

    def take(self, rows: int, length: int) -> Ids:
        """Return [rows, length + 1] ids."""
        pool = self._rows.get(length)
        if pool is None or len(pool) < rows:
            rng = np.random.default_rng((self.seed, self.epoch, length))
            self.epoch += 1
            joined = np.concatenate([self.docs[i] for i in rng.permutation(len(self.docs))])
            count = (len(joined) - 1) // length
            pool = np.stack([joined[i * length : i * length + length + 1] for i in range(count)])
            pool = pool[rng.permutation(count)]
        self._rows[length] = pool[rows:]
        self.tokens += rows * length
        return pool[:rows]


class Repeats:
    """Rows of random tokens that repeat themselves: text that only a model that looks back and copies can predict."""

    def __init__(self, vocabulary: int, *, seed: int) -> None:
        self.vocabulary = vocabulary
        self._rng = np.random.default_rng((seed, 2))

    def take(self, length: int) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Return [1, length + 1] ids and [1, length] weights of the targets, 0 where nothing tells the token."""
        period = int(self._rng.integers(8, length // 3))
        part = self._rng.integers(0, self.vocabulary, period).astype(np.uint16)
        row = np.resize(part, length + 1)
        weight = np.ones(length, dtype=np.float32)
        weight[:period] = 0.0  # the first token repeated is still a guess
        return row[None], weight[None]


class Packed:
    """Short documents packed whole into rows (first fit); every row starts a document and ends in padding."""

    def __init__(self, docs: list[Ids], *, seed: int) -> None:
        self.docs, self.seed, self.epoch = docs, seed, 0
        self._rows: dict[int, Ids] = {}
        self.tokens = 0

    def take(self, rows: int, length: int) -> Ids:
        """Return [rows, length + 1] ids."""
        pool = self._rows.get(length)
        if pool is None or len(pool) < rows:
            rng = np.random.default_rng((self.seed, self.epoch, length, 1))
            self.epoch += 1
            pool = self._pack(rng.permutation(len(self.docs)), length + 1)
            pool = pool[rng.permutation(len(pool))]
        self._rows[length] = pool[rows:]
        self.tokens += int((pool[:rows] != PAD).sum())
        return pool[:rows]

    def _pack(self, order: npt.NDArray[np.int64], width: int) -> Ids:
        open_rows: list[list[Ids]] = []
        room: list[int] = []
        done: list[list[Ids]] = []
        for i in order:
            doc = self.docs[i][:width]
            fit = next((r for r, free in enumerate(room) if free >= len(doc)), None)
            if fit is None:
                open_rows.append([])
                room.append(width)
                fit = len(room) - 1
            open_rows[fit].append(doc)
            room[fit] -= len(doc)
            if room[fit] < 24 or len(room) > 64:
                fullest = min(range(len(room)), key=room.__getitem__)
                done.append(open_rows.pop(fullest))
                room.pop(fullest)
        out = np.full((len(done) + len(open_rows), width), PAD, dtype=np.uint16)
        for row, parts in zip(out, [*done, *open_rows], strict=True):
            joined = np.concatenate(parts)
            row[: len(joined)] = joined
        return out
