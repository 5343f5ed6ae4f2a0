"""Architectures that kernels are compiled for, and the shared memory that one block may have there."""

import re
from dataclasses import dataclass

from ..errors import BuildError
from ..platform import SHARED_LIMIT

DEFAULT = ("sm_90", "sm_100", "sm_120", "gfx942", "gfx950")


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
    names = dict.fromkeys(name for name in re.split(r"[,\s]+", text) if name)
    for name in names:
        if name not in SHARED_LIMIT:
            raise BuildError(f"no target {name!r}; there are {', '.join(SHARED_LIMIT)}")
    return [Target(name) for name in names or DEFAULT]
