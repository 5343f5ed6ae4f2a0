"""The compiled forward on one rank beside the modules called as they are, in turn in one sample.

Usage: uv run python tools/bench/compiled.py [CHECKPOINT] [--json FILE]   (default: the bundled miniature)

Both run on the same weights and caches, and give the same but for the order of sums (the compiler joins the shared
expert with the routed ones); rounds alternate which goes first, so that what else the
machine does falls on both. The ratio is the median over rounds of compiled time to module time.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
import ts_modeling
from ts_modeling import Mesh
from ts_modeling.checkpoint import CheckpointFolder, load_weights
from ts_modeling.communication import Communicator
from ts_modeling.compiler import lower_plans
from ts_modeling.registry import build, kv_spec, read_config, table_of
from ts_modeling.testing import Sequences

PREFILL, BATCHES = 256, (1, 8)
Step = Callable[[Any, Any], Any]


def both(checkpoint: Path) -> tuple[Step, Step, Any]:
    """The compiled forward, the model's own, and what it caches; with the same weights."""
    config, device = read_config(checkpoint), torch.device("cpu")
    built = build(config, Mesh.single(), dtype=torch.float32, device=device, positions=1024)
    with torch.no_grad():
        load_weights(
            built.model,
            CheckpointFolder(checkpoint),
            table_of(config),
            device=device,
            progress=None,
            dtype=torch.float32,
        )
    _, compiled = lower_plans(built.plans, Communicator(*built.plans.programs))
    assert compiled is not None
    return compiled, built.model, kv_spec(config, Mesh.single(), dtype=torch.bfloat16)


def rounds(compiled: Step, modules: Step, batch: Any, cache: Any, repeats: int) -> list[tuple[float, float]]:
    """Seconds of (compiled, modules), in rounds that alternate who is first."""
    out: list[tuple[float, float]] = []
    for number in range(repeats):
        times: dict[Step, float] = {}
        for step in (compiled, modules)[:: 1 if number % 2 else -1]:
            start = perf_counter()
            step(batch, cache)
            times[step] = perf_counter() - start
        out.append((times[compiled], times[modules]))
    return out


def measure(compiled: Step, modules: Step, spec: Any, repeats: int) -> list[dict[str, Any]]:
    """One row a shape: a prefill, and decode steps of several rows."""
    rows: list[dict[str, Any]] = []
    for name, count in [(f"prefill {PREFILL}", 1), *((f"decode {n}", n) for n in BATCHES)]:
        sequences = Sequences(count, 2 * PREFILL, page_size=16)
        cache = spec.new_cache(
            num_pages=sequences.num_pages,
            page_size=16,
            num_states=sequences.num_states,
            device=torch.device("cpu"),
        )
        first = sequences.batch(prefills=[(s, list(range(PREFILL))) for s in range(count)], every=False)
        compiled(first, cache)
        batch = first if name.startswith("prefill") else sequences.batch(decodes=[(s, [7]) for s in range(count)])
        torch.testing.assert_close(compiled(batch, cache), modules(batch, cache), rtol=1e-4, atol=1e-4)
        rounds(compiled, modules, batch, cache, repeats // 10 + 1)
        times = rounds(compiled, modules, batch, cache, repeats)
        ratios = sorted(a / b for a, b in times)
        low, *_, high = quantiles(ratios, n=20)
        rows.append(
            {
                "step": name,
                "compiled_us": median(a for a, _ in times) * 1e6,
                "modules_us": median(b for _, b in times) * 1e6,
                "ratio": median(ratios),
                "ratio_p5": low,
                "ratio_p95": high,
            }
        )
    return rows


def main() -> None:
    """Print a row a shape."""
    default = Path(ts_modeling.__file__).parent / "miniatures" / "kimi_k25"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=default)
    parser.add_argument("--repeats", type=int, default=300, help="rounds of each step (300)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    compiled, modules, spec = both(options.checkpoint)
    with torch.no_grad():
        rows = measure(compiled, modules, spec, options.repeats)
    print(f"{'step':<14}{'compiled us':>14}{'modules us':>14}{'ratio':>8}{'p5':>8}{'p95':>8}")
    for r in rows:
        times = f"{r['compiled_us']:>14.0f}{r['modules_us']:>14.0f}"
        print(f"{r['step']:<14}{times}{r['ratio']:>8.3f}{r['ratio_p5']:>8.3f}{r['ratio_p95']:>8.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
