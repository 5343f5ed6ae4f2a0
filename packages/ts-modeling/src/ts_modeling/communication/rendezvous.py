"""Meeting the other ranks, and parting from them."""

import atexit
import ipaddress
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ..errors import MeshError
from ..placement import Mesh
from .launchers import Place, find_place

TIMEOUT: Final = 300.0
"""Seconds to wait for the other ranks."""
YEAR: Final = 365 * 86400.0


def join(
    mesh: str,
    *,
    device: str | torch.device = "cpu",
    timeout: float = TIMEOUT,
    environ: Mapping[str, str] | None = None,
) -> Mesh:
    """Meet the other ranks of ``mesh`` (``attn_tp=4,moe_ep=4``) as the launcher's variables say, and say who we are.

    gloo carries the collectives of CPU tensors, NCCL those of CUDA ones, on the device of the local rank. Nothing is
    opened for a mesh of one rank. ``environ`` is this process's unless given. ``timeout``: seconds to wait for other
    ranks, here and in every collective later; more than their loading times differ by. Raises ``MeshError`` naming the
    variable that is missing, a world that the mesh does not fit, or who did not come in time.
    """
    if not 0 < timeout <= YEAR:
        raise MeshError(f"timeout = {timeout!r}; give seconds above 0, a year at most")
    environ = os.environ if environ is None else environ
    place, joined = find_place(environ), Mesh.parse(mesh)
    if joined.world != place.world:
        raise MeshError(
            f"mesh {mesh!r} has {joined.world} ranks, but {place.launcher} started {place.world}; start "
            f"{joined.world} processes, for example with torchrun --nproc-per-node {joined.world}, or change the mesh"
        )
    if joined.world > 1:
        if dist.is_initialized():
            raise MeshError("this process has joined its ranks already; call leave() before it joins again")
        held = place.launcher == "torchrun" and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0") if held else None
        _meet(place, _device(torch.device(device), place), timeout, attempt)
        atexit.register(leave)  # a group that is left open may abort the interpreter as it ends
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


def _loopback(place: Place) -> tuple[str, int] | None:
    """Where rank 0 listens if all ranks are on this host: torch's store would listen on every address.

    A host's own name does not say so, though it is often that of a loopback address on the host itself (Debian).
    """
    if place.address == "localhost":
        found = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
        return str(found[0][4][0]), place.port
    try:
        return (place.address, place.port) if ipaddress.ip_address(place.address).is_loopback else None
    except ValueError:
        return None


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _meet(place: Place, device: torch.device, timeout: float, attempt: str | None) -> None:
    """``attempt`` is torchrun's where torchrun, not rank 0, holds the store; it outlives ranks that it starts again."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    began, wait = time.monotonic(), timedelta(seconds=timeout)
    try:
        local = _loopback(place)
        if local and "lo" in (name for _, name in socket.if_nameindex()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo would take the interface of the host's name
        first = place.rank == 0 and attempt is None
        door = socket.create_server(local, family=_family(local)).detach() if first and local else None
        store = TCPStore(place.address, place.port, place.world, first, wait, multi_tenant=first, master_listen_fd=door)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(f"ranks, attempt {attempt}", store),
            rank=place.rank,
            world_size=place.world,
            timeout=wait,
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, OSError) as error:  # torch's network and time-out errors are RuntimeErrors
        late = time.monotonic() - began >= timeout
        failed = f"did not meet the others at {place.address}:{place.port}" + f" within {timeout:g} s" * late
        raise MeshError(
            f"rank {place.rank} of {place.world} ({place.launcher}) {failed}; are all of them running, and is that "
            f"address theirs to reach and free to listen on? ({str(error).partition(chr(10))[0]})"
        ) from error
