"""What a step costs the scheduler, beside the PyPI package tokenspeed-scheduler in the same run where asked.

Usage: uv run --package ts-scheduler python -m tools.bench.scheduler [--reference] [--only TEXT] [--json FILE]

The reference comes in an environment of its own that uv makes on first use. Both run the same cases, one case of each
in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.bench.scheduler.cases import CASES, Figures

ROOT = Path(__file__).parents[3]
REFERENCE = ["uv", "run", "--no-project", "--with", "tokenspeed-scheduler==0.1.42", "--with", "numpy", "python"]


def measure(driver: str, case: str) -> Figures:
    """Run one case in this process."""
    if driver == "reference":
        from tools.bench.scheduler.reference import Reference

        return CASES[case](Reference)
    from tools.bench.scheduler.ours import Ours

    return CASES[case](Ours)


def in_a_process(driver: str, case: str) -> Figures:
    """Run one case in a fresh process of the driver's environment."""
    python = REFERENCE if driver == "reference" else [sys.executable]
    command = [*python, "-m", "tools.bench.scheduler", "--driver", driver, "--only", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    figures: Figures = json.loads(done.stdout)
    return figures


def shown(value: Any) -> str:
    """A figure for the table."""
    if isinstance(value, str):
        return value
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def main() -> None:
    """Measure each case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="measure tokenspeed-scheduler 0.1.42 beside it")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--driver", choices=("ours", "reference"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.driver:
        print(json.dumps(measure(arguments.driver, arguments.only)))
        return
    drivers = ["ours", "reference"] if arguments.reference else ["ours"]
    results: dict[str, dict[str, Figures]] = {}
    print(f"{'case':<40} {'figure':<20}" + "".join(f" {name:>12}" for name in drivers))
    for case in (name for name in CASES if arguments.only in name):
        results[case] = {driver: in_a_process(driver, case) for driver in drivers}
        for figure in max(results[case].values(), key=len):
            cells = "".join(f" {shown(results[case][name].get(figure, '')):>12}" for name in drivers)
            print(f"{case:<40} {figure:<20}{cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
