"""What choosing a kernel costs a call, beside a bare dictionary, a direct call and torch's own dispatcher.

    python tools/bench/selection.py [--json FILE]

Each line is the best of many short runs, in nanoseconds, so that what else runs on the machine counts little. The
tensors' attributes (device, dtype, shape) are read inside the lookups, as public functions do.
"""

import argparse
import json
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from ts_kernels import norm
from ts_kernels.selection import OPERATIONS

RUNS, CALLS = 200, 500


def best_ns(call: Callable[[], object]) -> float:
    """Nanoseconds of one call, less those of an empty one."""
    empty = min(timeit.repeat(lambda: None, number=CALLS, repeat=RUNS))
    return max(min(timeit.repeat(call, number=CALLS, repeat=RUNS)) - empty, 0.0) / CALLS * 1e9


def figures() -> dict[str, float]:
    """Nanoseconds by name."""
    x, weight = torch.ones(1, 256), torch.ones(256)
    operation, kernel = OPERATIONS["norm.rms_norm"], _nothing
    norm.rms_norm(x, weight, 1e-5, impl=None)
    operation.kernel(x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense")
    ready = (x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense")
    bare = {ready: kernel}
    library = torch.library.Library("ts_kernels_bench", "DEF")  # type: ignore[no-untyped-call]
    library.define("nothing(Tensor x, Tensor weight, float eps) -> Tensor")  # type: ignore[no-untyped-call]
    library.impl("nothing", _nothing, "CPU")  # type: ignore[no-untyped-call]
    through_torch = torch.ops.ts_kernels_bench.nothing.default
    return {
        "direct call of a Python function": best_ns(lambda: kernel(x, weight, 1e-5)),
        "bare dictionary, key at hand": best_ns(lambda: bare[ready]),
        "bare dictionary, key made from the tensors": best_ns(
            lambda: bare[x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense"]
        ),
        "kept choice, key at hand": best_ns(lambda: operation.kernel(*ready, None)),
        "kept choice, key made from the tensors": best_ns(
            lambda: operation.kernel(x.device, (x.dtype, weight.dtype), (x.shape[1],), "dense", None)
        ),
        "torch.ops dispatch to a Python function": best_ns(lambda: through_torch(x, weight, 1e-5)),
        "torch.neg(x), an operation of torch": best_ns(lambda: torch.neg(x)),
    }


def _nothing(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x


def main() -> None:
    """Print the figures, each with its ratio to the kept choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = figures()
    kept = found["kept choice, key made from the tensors"]
    for name, ns in found.items():
        print(f"{name:46} {ns:8.0f} ns  {ns / kept:6.2f} of a kept choice")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
