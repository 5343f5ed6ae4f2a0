"""A model's mapping table: which checkpoint tensor fills which part of which module."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..quantization import BIAS, Scheme


@dataclass(frozen=True, slots=True)
class Entry:
    """Checkpoint tensor ``name`` fills ``part`` of the leaf at ``module``.

    Without a module it is known, must be there, and is not read.
    """

    name: str
    module: str
    part: str


@dataclass(frozen=True)
class Table:
    """All tensors of a model. Names that begin with ``skipped``, or end with ``ignored_suffixes``, may be there too.

    ``either``: pairs of ways in which some tensors may be stored.
    """

    entries: tuple[Entry, ...]
    either: tuple[tuple[tuple[Entry, ...], tuple[Entry, ...]], ...] = ()
    skipped: tuple[str, ...] = ()
    ignored_suffixes: tuple[str, ...] = ()

    def chosen(self, names: Iterable[str]) -> "Table":
        """The table for a checkpoint of these names: of each pair the way that is there, the first where none is."""
        there = set(names) if self.either else set()
        taken: list[Entry] = []
        for first, second in self.either:
            taken += second if any(e.name in there for e in second) else first
        return replace(self, entries=(*self.entries, *taken), either=())

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor that no entry asks for is one that other models use."""
        return name.startswith(self.skipped) or name.endswith(self.ignored_suffixes)


def linear_entries(stem: str, module: str, part: str, scheme: Scheme, *, bias: bool = False) -> Iterator[Entry]:
    """The tensors of the Linear called ``stem`` in the checkpoint, whatever its format; ``part`` of ``module``."""
    for field in (*scheme.fields, BIAS) if bias else scheme.fields:
        yield Entry(stem + field.suffix, module, f"{part}.{field.key}")
    if scheme.says_shape:
        yield Entry(f"{stem}.weight_shape", module, f"{part}.shape")
    for suffix in scheme.unused:
        yield Entry(stem + suffix, "", "")


def fused_entries(stem: str, module: str, part: str, scheme: Scheme, *, bias: bool = False) -> Iterator[Entry]:
    """As ``linear_entries`` for tensors of all experts, which have no ``.weight`` in their names (``stem_bias``)."""
    for field in (*scheme.fields, BIAS) if bias else scheme.fields:
        suffix = field.suffix.removeprefix(".weight").replace(".", "_")
        yield Entry(stem + suffix, module, f"{part}.{field.key}")
