"""Whether a mesh divides what is cut over its axes, and which sizes of an axis would.

A message about one tensor names the sizes that fit all that the whole model cuts over the axis: ``Survey`` finds them.
"""

from collections.abc import Callable
from typing import Final

from ..errors import MeshError
from ..placement import MAX_WORLD, Mesh

Fits = Callable[[int], bool]
"""Whether something divides over that many ranks."""
SHOWN: Final = 12


class CutError(MeshError):
    """Something that ``axis`` does not divide: ``problem``, and the sizes that ``fits`` has."""

    def __init__(self, problem: str, axis: str, fits: Fits) -> None:
        sizes = [n for n in range(1, MAX_WORLD + 1) if fits(n)]
        shown = ", ".join(map(str, sizes[:SHOWN])) + (", ..." if len(sizes) > SHOWN else "")
        super().__init__(f"{problem}; sizes of {axis} that fit: {shown}")
        self.problem, self.axis = problem, axis


class Survey(Mesh):
    """A mesh of one rank on which a model is built to learn what each axis cuts."""

    def __init__(self) -> None:
        super().__init__(1)
        object.__setattr__(self, "asked", [])

    asked: list[tuple[str, Fits]]

    def fits(self, axes: tuple[str, ...]) -> Fits:
        """Whether all that these axes cut divides over that many ranks."""
        asked = [fits for axis, fits in self.asked if axis in axes]
        return lambda ranks: all(fits(ranks) for fits in asked)


def check_cut(mesh: Mesh, axis: str, fits: Fits, problem: str) -> None:
    """Raise ``CutError`` with ``problem`` where the size of ``axis`` does not fit."""
    if isinstance(mesh, Survey):
        mesh.asked.append((axis, fits))
    elif not fits(mesh.size(axis)):
        raise CutError(problem, axis, fits)
