"""Triton kernels compiled ahead of time, for architectures that are not at hand: what is built, and who declares it.

Each family with Triton kernels has a module here, named after it, whose ``aot_builds()`` lists representative builds:
the sizes, dtypes and launch settings that matter. ``ts-kernels aot`` compiles them all without a GPU and reports
registers, spills and shared memory against each target's limits. Modules whose name begins with an underscore are the
machinery.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import RegistrationError


@dataclass(frozen=True)
class Build:
    """One kernel at one set of compile-time values.

    ``kernel`` is "family.module:function" below ``ts_kernels.ops``; ``signature`` gives each argument that is not a
    constexpr its Triton type ("*bf16", "i32", "fp32"), in the kernel's own order or any; ``constexprs`` the rest.
    ``aligned`` names the arguments that are multiples of 16 at run time, None for every pointer: Triton specializes on
    it, and without it loads do not vectorize. ``spills`` is how many bytes a thread may spill, by target or for all
    ("*"); ``targets`` limits a build to some ("sm_90", "gfx942"); ``options`` go to the compiler as they are.
    """

    name: str
    kernel: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    aligned: tuple[str, ...] | None = None
    spills: Mapping[str, int] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = {name for name, kind in self.signature.items() if kind != "constexpr"} & set(self.constexprs)
        if twice:
            raise RegistrationError(f"{self.name}: {', '.join(sorted(twice))} is both a constexpr and in the signature")
        unknown = set(self.aligned or ()) - set(self.signature)
        if unknown:
            raise RegistrationError(f"{self.name}: aligned names {', '.join(sorted(unknown))}, not in the signature")

    def spill_allowance(self, target: str) -> int:
        """Bytes a thread may spill on ``target``."""
        return self.spills.get(target, self.spills.get("*", 0))


def families() -> list[str]:
    """Families that declare builds: the modules of this package."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def collect(only: str = "") -> list[Build]:
    """All builds whose name starts with ``only``; raises ``RegistrationError`` for a name used twice."""
    found: dict[str, Build] = {}
    for family in families():
        for build in importlib.import_module(f"{__name__}.{family}").aot_builds():
            if build.name in found:
                raise RegistrationError(f"two builds are named {build.name}")
            found[build.name] = build
    return [build for build in found.values() if build.name.startswith(only)]
