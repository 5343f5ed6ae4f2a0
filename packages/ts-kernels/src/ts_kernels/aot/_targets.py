"""Architectures that kernels are compiled for, and the shared memory that one block may have there."""

import re
from dataclasses import dataclass

from ..errors import BuildError

KB = 1024
# NVIDIA: CUDA C Programming Guide, technical specifications per compute capability, less the 1 KB a block reserves.
# AMD: the LDS of a compute unit (CDNA 3 and CDNA 4 instruction set manuals).
SHARED_LIMIT = {
    "sm_80": 163 * KB,
    "sm_89": 99 * KB,
    "sm_90": 227 * KB,
    "sm_100": 227 * KB,
    "sm_103": 227 * KB,
    "sm_120": 99 * KB,
    "gfx942": 64 * KB,
    "gfx950": 160 * KB,
}
DEFAULT = ("sm_90", "sm_100", "gfx942", "gfx950")


@dataclass(frozen=True)
class Target:
    """An architecture as its vendor writes it: "sm_90", "gfx942"."""

    name: str

    @property
    def nvidia(self) -> bool:
        """Whether it is CUDA's."""
        return self.name.startswith("sm_")

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that one block may have."""
        return SHARED_LIMIT[self.name]

    @property
    def triton(self) -> tuple[str, int | str, int]:
        """Backend, architecture and threads a warp, as Triton's GPUTarget takes them."""
        if self.nvidia:
            return "cuda", int(self.name.removeprefix("sm_")), 32
        return "hip", self.name, 64


def parse(text: str) -> list[Target]:
    """Targets from "sm_90,gfx942"; raises ``BuildError`` for one whose limits are not known."""
    names = [name for name in re.split(r"[,\s]+", text) if name]
    for name in names:
        if name not in SHARED_LIMIT:
            raise BuildError(f"no target {name!r}; there are {', '.join(SHARED_LIMIT)}")
    return [Target(name) for name in names or DEFAULT]
