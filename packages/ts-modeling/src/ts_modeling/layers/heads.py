"""Which query and key heads a rank has: cut over ``attn_tp``, key heads shared where there are too few."""

from dataclasses import dataclass
from typing import Final

from ..placement import Mesh
from .cuts import check_cut

HEAD_FIELDS: Final = ("num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True)
class Heads:
    """Heads of one rank. Key heads fewer than ranks are held by ``copies`` neighbours each."""

    queries: int
    keys: int
    copies: int
    first_query: int
    first_key: int

    @classmethod
    def of(cls, queries: int, keys: int, mesh: Mesh, names: tuple[str, str] = HEAD_FIELDS) -> "Heads":
        """This rank's, cut over ``attn_tp``. Raises ``MeshError`` with the fields' ``names`` and the sizes that fit."""
        ranks, index = mesh.size("attn_tp"), mesh.index(mesh.atoms("attn_tp"))
        problem = f"{names[0]} = {queries} with {names[1]} = {keys} does not divide over attn_tp={ranks}"
        check_cut(mesh, "attn_tp", lambda n: queries % n == 0 and (keys % n == 0 or n % keys == 0), problem)
        copies = max(1, ranks // keys)
        mine, shared = queries // ranks, keys * copies // ranks
        return cls(mine, shared, copies, index * mine, index // copies * shared)
