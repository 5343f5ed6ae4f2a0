"""Which part of the model this worker holds, once it has met the workers of the other parts.

All of them are sent the same plans, run them in the same order and draw the same tokens; rank 0 answers.
"""

from concurrent.futures import ThreadPoolExecutor

from ts_modeling import Mesh, join
from ts_protocol.config import WorkerConfig

from ts_runtime.errors import SettingsError


def place_of(config: WorkerConfig) -> Mesh:
    """The mesh with this worker's rank in it.

    Raises:
        MeshError, SettingsError: it is no mesh of ``world_size`` ranks, or its groups would need rows of their own.
    """
    mesh = Mesh.parse(config.mesh)
    if mesh.world != config.world_size:
        raise SettingsError(f"mesh = {config.mesh!r}: it has {mesh.world} ranks, world_size is {config.world_size}")
    if mesh.size("attn_dp") > 1:
        raise SettingsError(f"mesh = {config.mesh!r}: all ranks are sent the same rows; give attn_tp, not attn_dp")
    return mesh


def meet(config: WorkerConfig) -> Mesh:
    """The same, with the other ranks met; waits for them to come.

    Raises:
        MeshError: somebody did not come.
    """
    host, _, port = config.rendezvous.rpartition(":")
    _, _, local = config.device.partition(":")
    place = {"RANK": config.rank, "WORLD_SIZE": config.world_size, "LOCAL_RANK": local or 0}
    told = {name: str(number) for name, number in place.items()} | {"MASTER_ADDR": host, "MASTER_PORT": port}
    with ThreadPoolExecutor(1) as waiting:  # torch waits without a look at signals; this wait is Python's
        return waiting.submit(join, config.mesh, device=config.device, environ=told).result()
