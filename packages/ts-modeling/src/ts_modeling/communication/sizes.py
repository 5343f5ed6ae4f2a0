"""How much of one dimension each rank of a group holds."""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from ..compiler import Forward
from ..compiler.program import Collect, edge_of
from ..errors import CompileError, MeshError
from ..placement import Extent, Layout, Mesh, Shard, part_of, token_extent

_WRONG_COUNT: Final = (
    "batch.dp_sizes tells the tokens of {} groups, the mesh has attn_dp={}; give one number for each group, 0 where a "
    "group is idle"
)


class Sizes:
    """Extent of each rank's part of one dimension, in group order: known ones, or parts of the batch's tokens."""

    def __init__(self, known: Sequence[int] = (), *, extents: tuple[Extent, ...] = (), groups: int = 1) -> None:
        self.known, self.extents, self.groups = list(known), extents, groups

    def of(self, sizes: tuple[int, ...]) -> list[int]:
        """Extents where the ``attn_dp`` groups have ``sizes`` tokens. Raises ``MeshError`` where a group is missing."""
        if not self.extents:
            return self.known
        if len(sizes) != self.groups:
            raise MeshError(_WRONG_COUNT.format(len(sizes), self.groups))
        return [extent.of(sizes) for extent in self.extents]


def sizes_of(collect: Collect, dim: str | None, mesh: Mesh) -> Sizes:
    """What the ranks of ``collect`` hold of ``dim`` while it is cut. Raises ``CompileError`` where nobody can know."""
    step = collect.step
    layout = collect.source.layout if dim == step.gather else collect.out.layout
    cut = _cut(layout, str(dim))
    size = next(d.size for d in collect.source.dims if d.name == dim)
    ranks = mesh.group(step.atoms)
    if size is not None:
        return Sizes([part_of(mesh, cut, size, rank)[1] for rank in ranks])
    if dim != "tokens":
        raise CompileError(
            f"{edge_of(collect)}: {dim} would be moved over {mesh.axis_of(step.atoms)}, but how many each rank holds "
            "is known for tokens alone; annotate a cut of another dimension there"
        )
    extents = tuple(token_extent(mesh, cut, rank) for rank in ranks)
    return Sizes(extents=extents, groups=mesh.size("attn_dp"))


def _cut(layout: Layout, dim: str) -> tuple[int, ...]:
    return tuple(i for i, p in enumerate(layout) if p == Shard(dim))


def batch_sizes(batch: object) -> tuple[int, ...]:
    """Tokens of each ``attn_dp`` group; a batch of one group need not say it."""
    sizes: tuple[int, ...] = batch.dp_sizes  # type: ignore[attr-defined]
    return sizes or (batch.tokens.shape[0],)  # type: ignore[attr-defined]


def checking_sizes(forward: Forward, mesh: Mesh) -> Forward:
    """``forward`` behind a look at its batch's ``dp_sizes``: a rank that is wrong about itself would wait for rows that
    nobody sends, or pad them. Whether other ranks were told the same is not known here."""
    groups, mine = mesh.size("attn_dp"), mesh.index(mesh.atoms("attn_dp"))

    def run(batch: Any, *args: Any) -> Tensor:
        if batch.dp_sizes:
            check_sizes(batch.dp_sizes, groups, mine, batch.tokens.shape[0])
        return forward(batch, *args)

    return run


def check_sizes(sizes: tuple[int, ...], groups: int, mine: int, tokens: int) -> None:
    """Raise ``MeshError`` unless ``sizes`` are those of all groups, ``tokens`` of them in the group ``mine``."""
    for group, size in enumerate(sizes):
        if not isinstance(size, int) or size < 0:
            raise MeshError(f"batch.dp_sizes[{group}] = {size!r}; give a whole number of tokens, 0 for an idle group")
    if len(sizes) != groups:
        raise MeshError(_WRONG_COUNT.format(len(sizes), groups))
    if sizes[mine] != tokens:
        raise MeshError(
            f"batch.dp_sizes[{mine}] = {sizes[mine]}, but this rank is of attn_dp group {mine} and its batch has "
            f"{tokens} tokens; give every rank the same sizes, each group's own"
        )
