"""What the compiled forward costs above its kernels, and how long loading takes.

Usage: uv run python tools/bench/modeling.py [CHECKPOINT] [--json FILE]   (default: the bundled miniature)

The kernels' public functions are replaced by ones that return prepared tensors of the right shape, so that what is
left of a decode step is Python: the compiled code, the leaves' forwards, and the views that they make.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import ts_modeling
from ts_kernels import gemm, kv_cache, mla, moe, norm, rope
from ts_modeling import LoadedModel, load_model
from ts_modeling.testing import Sequences

REPEATS = 300
FUNCTIONS = (
    (gemm, ("linear", "mlp", "gather_rows")),
    (norm, ("rms_norm", "add_rms_norm")),
    (rope, ("apply_interleaved",)),
    (kv_cache, ("write_latent",)),
    (mla, ("decode",)),
    (moe, ("route_sigmoid", "experts")),
)


class Replay:
    """Answers every kernel call of a step with what the real one gave, in order."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.next = 0

    def recording(self, function: Any) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            self.answers.append(function(*args, **kwargs))
            return self.answers[-1]

        return record

    def replaying(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.answers[self.next]
        self.next += 1
        return answer


def timed(forward: Any, batch: Any, cache: Any, replay: Replay | None = None) -> float:
    """Median seconds of one step."""
    times = []
    for _ in range(REPEATS):
        if replay:
            replay.next = 0
        start = perf_counter()
        forward(batch, cache)
        times.append(perf_counter() - start)
    return median(times)


def python_seconds(model: LoadedModel, batch: Any, cache: Any) -> tuple[float, int]:
    """Seconds of a step whose kernels do nothing, and the number of kernel calls."""
    replay = Replay()
    originals = {(module, name): getattr(module, name) for module, names in FUNCTIONS for name in names}
    try:
        for (module, name), function in originals.items():
            setattr(module, name, replay.recording(function))
        model.forward(batch, cache)
        for module, name in originals:
            setattr(module, name, replay.replaying)
        return timed(model.forward, batch, cache, replay), len(replay.answers)
    finally:
        for (module, name), function in originals.items():
            setattr(module, name, function)


def main() -> None:
    """Print load time, a decode step, and Python's share of it."""
    default = Path(ts_modeling.__file__).parent / "miniatures" / "kimi_k25"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=default)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    start = perf_counter()
    model = load_model(options.checkpoint)
    load = perf_counter() - start
    print(f"load: {load:.3f} s, {model.config.num_hidden_layers} layers")
    rows = Sequences(1, 64, page_size=16)
    cache = model.new_cache(rows.num_pages, rows.page_size)
    model.forward(rows.batch(prefills=[(0, list(range(20)))]), cache)
    batch = rows.batch(decodes=[(0, [7])])
    step = timed(model.forward, batch, cache)
    python, calls = python_seconds(model, batch, cache)
    print(f"decode step: {step * 1e6:.0f} us; Python without kernels: {python * 1e6:.0f} us for {calls} kernel calls")
    if options.json:
        figures = {"load_s": load, "step_us": step * 1e6, "python_us": python * 1e6, "kernel_calls": calls}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
