"""Which rank a process is, told by whoever started it.

| started by | variables |
|---|---|
| torchrun, Ray Train, or by hand | ``RANK WORLD_SIZE MASTER_ADDR MASTER_PORT``; ``LOCAL_RANK`` |
| ``srun`` | ``SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_JOB_NODELIST SLURM_JOB_ID SLURM_STEP_ID`` (or the step's) |
| ``mpirun`` of OpenMPI | ``OMPI_COMM_WORLD_RANK``, ``_SIZE``, ``_LOCAL_RANK``, ``_LOCAL_SIZE`` |

``MASTER_ADDR`` and ``MASTER_PORT`` overrule what is derived for the last two: the first host of the list, a port made
of the job's number, loopback where all ranks are on one host (``mpirun`` over several needs ``MASTER_ADDR``). Nothing
set at all means one process, and so does the script of ``sbatch``, which is in no step. Sources: torchrun's, ``srun``'s
and OpenMPI's manuals; Ray Train sets torchrun's variables in each of its workers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import MeshError

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 29500
JOB_PORTS: Final = range(20000, 30000)
"""Ports that a job's number is mapped to."""
STEP: Final = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS")
"""What ``srun`` says of its step."""
HOST: Final = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """This process's ``rank`` of ``world``, the ``local`` one on its host, and where rank 0 is met."""

    rank: int
    world: int
    local: int
    address: str
    port: int
    launcher: str

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise MeshError(f"{self.launcher}: rank {self.rank} is outside the world of {self.world} processes")


def find_place(environ: Mapping[str, str]) -> Place:
    """The place that ``environ`` gives. Raises ``MeshError`` naming a variable that is missing or no number."""
    if "RANK" in environ or ("WORLD_SIZE" in environ and "SLURM_PROCID" not in environ):
        return _torchrun(environ)
    if "OMPI_COMM_WORLD_RANK" in environ:
        return _openmpi(environ)
    if "SLURM_PROCID" in environ and not _is_batch_script(environ):
        return _slurm(environ)
    return Place(0, 1, 0, LOOPBACK, DEFAULT_PORT, "a single process")


def _is_batch_script(environ: Mapping[str, str]) -> bool:
    """A process of ``sbatch``'s script: rank 0 of a job that may have more tasks, but of none of ``srun``'s steps."""
    return environ["SLURM_PROCID"] == "0" and not any(name in environ for name in STEP)


def first_host(nodes: str) -> str:
    """The first host of a Slurm list: ``gpu[003-005,9],cpu1`` gives ``gpu003``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def _torchrun(environ: Mapping[str, str]) -> Place:
    who = "torchrun"
    rank, world = _number(environ, "RANK", who), _number(environ, "WORLD_SIZE", who)
    local = _number(environ, "LOCAL_RANK", who) if "LOCAL_RANK" in environ else rank
    return Place(rank, world, local, _text(environ, "MASTER_ADDR", who), _number(environ, "MASTER_PORT", who), who)


def _slurm(environ: Mapping[str, str]) -> Place:
    who = "Slurm"
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    rank, world = _number(environ, "SLURM_PROCID", who), _number(environ, tasks, who)
    local = _number(environ, "SLURM_LOCALID", who)
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((name for name in names if environ.get(name)), names[1])
    address = environ.get("MASTER_ADDR") or _first_of(environ, nodes, who)
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT", who)
    else:
        port = JOB_PORTS[_number(environ, "SLURM_JOB_ID", who) % len(JOB_PORTS)]
    return Place(rank, world, local, address, port, who)


def _first_of(environ: Mapping[str, str], name: str, who: str) -> str:
    nodes = _text(environ, name, who)
    host = first_host(nodes)
    if not HOST.fullmatch(host):
        raise MeshError(f"started by {who}, but {name} = {nodes!r} begins with no host; set MASTER_ADDR")
    return host


def _openmpi(environ: Mapping[str, str]) -> Place:
    who, stem = "OpenMPI", "OMPI_COMM_WORLD_"
    rank, world = _number(environ, f"{stem}RANK", who), _number(environ, f"{stem}SIZE", who)
    local = _number(environ, f"{stem}LOCAL_RANK", who)
    here = _number(environ, f"{stem}LOCAL_SIZE", who) if f"{stem}LOCAL_SIZE" in environ else 0
    address = LOOPBACK if here == world and "MASTER_ADDR" not in environ else _text(environ, "MASTER_ADDR", who)
    port = _number(environ, "MASTER_PORT", who) if "MASTER_PORT" in environ else DEFAULT_PORT
    return Place(rank, world, local, address, port, who)


def _text(environ: Mapping[str, str], name: str, who: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise MeshError(f"started by {who}, but {name} is not set; set it, or start the ranks with torchrun")
    return value


def _number(environ: Mapping[str, str], name: str, who: str) -> int:
    value = _text(environ, name, who)
    if not value.isascii() or not value.isdigit():
        raise MeshError(f"started by {who}, but {name} = {value!r} is no whole number")
    return int(value)
