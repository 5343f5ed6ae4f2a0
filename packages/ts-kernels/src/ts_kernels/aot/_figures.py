"""Registers, spills and shared memory of a compiled kernel, read from what the vendors' tools print."""

import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BuildError


@dataclass(frozen=True)
class Figures:
    """What one thread and one block take: registers, bytes spilled a thread, bytes of shared memory a block."""

    registers: int
    spills: int
    shared: int

    def as_json(self) -> dict[str, int]:
        """The fields."""
        return asdict(self)


def of_ptx(ptx: str, arch: str, shared: int, ptxas: Path) -> Figures:
    """Have ``ptxas -v`` assemble ``ptx`` and say what it took; ``shared`` is what Triton asks for at the launch."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [str(ptxas), "-v", f"--gpu-name={arch}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"ptxas: {done.stderr.strip()}")
    return parse_ptxas(done.stderr, shared)


def parse_ptxas(log: str, shared: int) -> Figures:
    """Figures from the log of ``ptxas -v``."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", log)]
    if registers is None or not spills:
        raise BuildError(f"ptxas -v says neither registers nor spills:\n{log}")
    fixed = re.search(r"(\d+) bytes smem", log)
    return Figures(int(registers[1]), max(spills), max(shared, int(fixed[1]) if fixed else 0))


def parse_amdgcn(text: str, shared: int) -> Figures:
    """Figures from the metadata at the end of AMD's assembly. A register spilled is 4 bytes a thread.

    Vector registers alone count: scalar ones spill into lanes of vector registers, which shows in those.
    """
    found = {name: int(value) for name, value in re.findall(r"^\s*\.(\w+):\s+(\d+)\s*$", text, re.M)}
    missing = {"vgpr_count", "vgpr_spill_count", "group_segment_fixed_size"} - set(found)
    if missing:
        raise BuildError(f"the assembly does not say {', '.join(sorted(missing))}")
    return Figures(found["vgpr_count"], 4 * found["vgpr_spill_count"], max(shared, found["group_segment_fixed_size"]))
