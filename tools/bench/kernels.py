"""Time every operation of ts-kernels against plain torch, on the miniature's and on large shapes.

    python tools/bench/kernels.py [--sizes miniature,large] [--rows 1,16] [--only mla] [--device cuda] [--json FILE]

The baseline is torch with weights unpacked and upcast beforehand. Figures are medians of single calls through the
public function, checks and selection included, beside the share of what the device could do at the read bandwidth and
matrix rate that this run measured. Run it on an idle machine.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from ts_kernels import benching, platform
from ts_kernels.arguments import device_of, dtype_of


def main() -> None:
    """Print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="miniature,large")
    parser.add_argument("--rows", default="1,16")
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of activations")
    parser.add_argument("--budget", type=float, default=0.1, help="seconds per figure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device, dtype = device_of(options.device), dtype_of(options.dtype)
    floor = benching.floor(device, dtype)
    print(f"{floor.read / 1e9:.1f} GB/s read, {floor.product / 1e12:.3g} T{floor.dtype} operations/s")
    timings = []
    for sizes in options.sizes.split(","):
        for rows in map(int, options.rows.split(",")):
            print(f"-- {sizes}, {rows} rows, {torch.get_num_threads()} threads, {isa()}")
            bench = benching.Bench(
                sizes=sizes,
                rows=rows,
                device=device,
                dtype=dtype,
                floor=floor,
                only=options.only,
                budget=options.budget,
            )
            for timing in benching.run(bench):
                timings.append(timing)
                print(timing, flush=True)
    if options.json:
        content = {"isa": isa(), "floor": asdict(floor), "timings": [t.as_json() for t in timings]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def isa() -> str:
    """The native kernels' instruction set, or "torch reference" where they are not built."""
    if platform.native_error() is not None:
        return "torch reference"
    platform.configure_native()
    from ts_kernels import _native

    return _native.isa()


if __name__ == "__main__":
    main()
