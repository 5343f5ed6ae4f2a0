"""Meeting the other ranks, and parting from them."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from ..errors import MeshError
from ..placement import Mesh
from .launchers import Place, find_place

TIMEOUT: Final = 300.0
"""Seconds to wait for the other ranks."""


def join(
    mesh: str,
    *,
    device: str | torch.device = "cpu",
    timeout: float = TIMEOUT,
    environ: Mapping[str, str] | None = None,
) -> Mesh:
    """Meet the other ranks of ``mesh`` (``attn_tp=4,moe_ep=4``) as the launcher's variables say, and say who we are.

    gloo carries the collectives of CPU tensors, NCCL those of CUDA ones, on the device of the local rank. Nothing is
    opened for a mesh of one rank. ``environ`` is this process's unless given. Raises ``MeshError`` naming the variable
    that is missing, a world that the mesh does not fit, or who did not come within ``timeout`` seconds.
    """
    place = find_place(os.environ if environ is None else environ)
    joined = Mesh.parse(mesh)
    if joined.world != place.world:
        raise MeshError(
            f"mesh {mesh!r} has {joined.world} ranks, but {place.launcher} started {place.world}; start "
            f"{joined.world} processes, for example with torchrun --nproc-per-node {joined.world}, or change the mesh"
        )
    if joined.world > 1:
        _meet(place, _device(torch.device(device), place), timeout)
    return Mesh(joined.world, joined.axes, place.rank)


def leave() -> None:
    """Part from the other ranks; nothing where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(device: torch.device, place: Place) -> torch.device:
    if device.type != "cuda":
        return device
    if place.local >= torch.cuda.device_count():
        raise MeshError(
            f"local rank {place.local} has no CUDA device of its own: this host shows {torch.cuda.device_count()}; "
            "start one process a device"
        )
    return torch.device("cuda", place.local)


def _meet(place: Place, device: torch.device, timeout: float) -> None:
    method = "env://" if place.launcher == "torchrun" else f"tcp://{_host(place.address)}:{place.port}"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=method,
            rank=place.rank,
            world_size=place.world,
            timeout=timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, ValueError) as error:  # torch's network and time-out errors are RuntimeErrors
        raise MeshError(
            f"rank {place.rank} of {place.world} ({place.launcher}) did not meet the others at {place.address}:"
            f"{place.port} within {timeout:g} s; are all of them running, and is that address theirs to reach? "
            f"({str(error).splitlines()[0]})"
        ) from error


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
