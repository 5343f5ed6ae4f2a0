"""How fast the ranks of this launch talk: what ``Costs.start`` should be here.

Usage: uv run torchrun --nproc-per-node 2 tools/bench/links.py [--device cuda] [--json FILE]

A tiny all-reduce takes the time to begin one; a huge one shows the bandwidth, counted as a ring sends. Their product is
the number of bytes that the link could have carried while a collective began.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import torch
import torch.distributed as dist
from ts_modeling import join, leave
from ts_modeling.communication import find_place

TINY, HUGE, ROUNDS, REPEATS = 16, 1 << 22, 9, 20
"""Elements of fp32; rounds of which the median counts; repeats in each."""
ITEMSIZE: Final = 4


def seconds(elements: int, repeats: int, device: torch.device) -> float:
    """Median time of one all-reduce."""
    x = torch.ones(elements, device=device)
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        start = perf_counter()
        for _ in range(repeats):
            dist.all_reduce(x)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((perf_counter() - start) / repeats)
    return median(times)


def main(world: int) -> None:
    """Print the figures on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mesh = join(f"attn_tp={world}", device=options.device)
    device = torch.device(options.device)
    begin, long = seconds(TINY, REPEATS, device), seconds(HUGE, 3, device)
    bandwidth = 2 * (mesh.world - 1) / mesh.world * HUGE * ITEMSIZE / long
    if mesh.rank == 0:
        speed = f"{begin * 1e6:.0f} us to begin, {bandwidth / 1e9:.2f} GB/s"
        print(f"{mesh.world} ranks: {speed}: {begin * bandwidth:,.0f} bytes")
        if options.json:
            figures = {"ranks": mesh.world, "begin_s": begin, "bytes_per_s": bandwidth, "start": begin * bandwidth}
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    leave()


if __name__ == "__main__":
    main(find_place(os.environ).world)
