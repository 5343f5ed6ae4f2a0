"""Names of the tensors around a layer for multi-token prediction, and the modules that they fill."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...checkpoint.table import Entry, Table, linear_entries
from ...quantization import PLAIN, Scheme

Ways = tuple[tuple[Entry, ...], tuple[Entry, ...]]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a checkpoint calls them, each without ``.weight``."""

    embed_norm: str
    state_norm: str
    project: str
    norm: str
    embed: str
    """The target's, as the head is."""
    head: str


def table(
    names: Names,
    layer: Iterable[Entry],
    *,
    project: Scheme = PLAIN,
    head: Scheme = PLAIN,
    copies: tuple[str, str] | None = None,
    either: tuple[Ways, ...] = (),
    skipped: tuple[str, ...] = (),
) -> Table:
    """Every tensor of the draft. ``copies``: what the draft's own embedding and head are called, where a checkpoint may
    hold them beside the target's; they are then taken. ``either``: ways in which parts of the layer may be stored."""
    norms = (("embed_norm", names.embed_norm), ("state_norm", names.state_norm), ("norm", names.norm))
    entries = [Entry(f"{name}.weight", module, "weight") for module, name in norms]
    entries += [*linear_entries(names.project, "project", "pair", project), *layer]
    ways = (
        tuple(Entry(f"{name}.weight", "embed", "weight") for name in (names.embed,)),
        tuple(linear_entries(names.head, "head", "head", head)),
    )
    if copies is None:
        entries += [*ways[0], *ways[1]]
        return Table(tuple(entries), either=either, skipped=skipped, ignored_suffixes=(".rotary_emb.inv_freq",))
    own = (Entry(f"{copies[0]}.weight", "embed", "weight"),), tuple(linear_entries(copies[1], "head", "head", head))
    either = (*either, (ways[0], own[0]), (ways[1], own[1]))
    skipped = (*skipped, f"{names.embed}.", f"{names.head}.")
    return Table(tuple(entries), either=either, skipped=skipped, ignored_suffixes=(".rotary_emb.inv_freq",))
