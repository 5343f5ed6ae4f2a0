"""One rank of ``test_rendezvous``: joins MESH as its launcher says, adds up the ranks, prints what it saw; and what it
listens on beside loopback.

Usage: join_worker.py MESH [SECONDS]
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from ts_modeling import ModelingError, join, leave

LISTENING, LOOPBACK = "0A", ("0100007F", "00000000000000000000000001000000")


def listens_elsewhere() -> list[str]:
    """This process's listening addresses that are not loopback, as Linux writes them."""
    mine = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            mine.add(str(entry.readlink()))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/self/net", name).read_text().splitlines()]
    held = [line[1] for line in lines if line[3] == LISTENING and f"socket:[{line[9]}]" in mine]
    return [address for address in held if address.partition(":")[0] not in LOOPBACK]


def main() -> int:
    """Print ``rank of world: sum``, or the error."""
    mesh_text, *timeout = sys.argv[1:]
    try:
        mesh = join(mesh_text, timeout=float(timeout[0]) if timeout else 60.0)
    except ModelingError as error:
        print(f"refused: {error}", flush=True)
        return 3
    total = torch.tensor([float(mesh.rank)])
    if mesh.world > 1:
        dist.all_reduce(total)
    line = f"rank {mesh.rank} of {mesh.world}: {total.item():g} over {mesh.axes['attn_tp']}\n"
    if sys.platform == "linux" and mesh.world > 1:
        line += "".join(f"listens on {address}\n" for address in listens_elsewhere())
    sys.stdout.write(line)  # in one piece: print writes the end of a line on its own where torchrun asks for no buffer
    sys.stdout.flush()
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
