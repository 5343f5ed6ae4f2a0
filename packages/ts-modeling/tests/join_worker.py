"""One rank of ``test_rendezvous``: joins MESH as its launcher says, adds up the ranks, prints what it saw.

Usage: join_worker.py MESH [SECONDS]
"""

import sys

import torch
import torch.distributed as dist
from ts_modeling import ModelingError, join, leave


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
    sys.stdout.write(line)  # in one piece: print writes the end of a line on its own where torchrun asks for no buffer
    sys.stdout.flush()
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
