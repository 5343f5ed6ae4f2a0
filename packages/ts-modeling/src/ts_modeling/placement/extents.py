"""How much each rank holds of a cut dimension that ranks need not divide: of the vocabulary, and of any batch's tokens.

The batch has ``sizes[g]`` tokens in the attn_dp group ``g``, none perhaps. Where tokens are cut on atoms of ``attn_dp``
a rank holds whole groups; each further atom cuts what is left into parts that differ by one token at most, the first
ones longer. So the slowest atom cuts first, and the parts of a fast atom add up to the part that they were cut from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .mesh import Mesh


@dataclass(frozen=True, slots=True)
class Extent:
    """Tokens of one rank: those of the groups ``members``, cut in turn into ``parts`` (how many, which one)."""

    members: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]

    def of(self, sizes: Sequence[int]) -> int:
        """Number of tokens where the groups have ``sizes``."""
        length = sum(sizes[i] for i in self.members)
        for count, index in self.parts:
            length = length // count + (index < length % count)
        return length


def part_of(mesh: Mesh, cut: tuple[int, ...], size: int, rank: int | None = None) -> tuple[int, int]:
    """Where the part of ``rank`` (this one unless given) of ``size`` begins, and how long it is, cut on ``cut``."""
    here, start, length = mesh.coordinates(mesh.rank if rank is None else rank), 0, size
    for atom in sorted(cut):
        each, more = divmod(length, mesh.atom_sizes[atom])
        start += here[atom] * each + min(here[atom], more)
        length = each + (here[atom] < more)
    return start, length


def token_extent(mesh: Mesh, cut: tuple[int, ...], rank: int) -> Extent:
    """What ``rank`` holds while tokens are cut on the atoms ``cut`` and whole on the others."""
    groups, here = mesh.atoms("attn_dp"), mesh.coordinates(rank)
    kept = tuple(a for a in groups if a in cut)
    members = {
        mesh.index(groups, r) for r in mesh.group(groups, rank) if all(mesh.coordinates(r)[a] == here[a] for a in kept)
    }
    parts = tuple((mesh.atom_sizes[a], here[a]) for a in sorted(cut) if a not in groups)
    return Extent(tuple(sorted(members)), parts)
