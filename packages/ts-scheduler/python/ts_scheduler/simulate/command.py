"""``ts-scheduler simulate``: the command line."""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ts_scheduler.simulate import report
from ts_scheduler.simulate.device import PRESETS
from ts_scheduler.simulate.fleet import Fleet, simulate
from ts_scheduler.simulate.replica import Options
from ts_scheduler.simulate.workload import WORKLOADS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``simulate``."""
    parser.add_argument("--device", choices=sorted(PRESETS), default="kimi-k2.5-8xh200")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="coding")
    parser.add_argument("--users", type=_positive, default=1000, help="of all replicas together")
    parser.add_argument("--replicas", type=_positives, default=[50], help="how many, or several numbers: 25,50,100")
    parser.add_argument("--seconds", type=float, default=150.0, help="virtual time, the warmup included")
    parser.add_argument("--warmup", type=float, default=30.0, help="seconds at the start that are not counted")
    parser.add_argument("--chunk-tokens", type=_positives, default=[8192], help="most tokens of a step, or several")
    parser.add_argument("--max-num-seqs", type=_positive, default=256, help="most requests of a step")
    parser.add_argument("--page-size", type=_positive, default=64)
    parser.add_argument("--floor", type=float, default=70.0, help="tokens a second below which a user's time is bad")
    parser.add_argument("--min-tps", type=_floors, default=[0.0], help="the scheduler's own floor, 0: none; or several")
    parser.add_argument("--growth-room", type=float, default=0.33, help="share of the pages left for conversations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write inputs and figures there")
    parser.add_argument("--plot", type=Path, help="draw the figures there (needs matplotlib)")


def run(arguments: argparse.Namespace) -> int:
    """Simulate each number of replicas and report; 2 when the arguments do not fit each other."""
    if not 0 <= arguments.warmup < arguments.seconds:
        print("ts-scheduler simulate: --warmup has to be at least 0 and less than --seconds", file=sys.stderr)
        return 2
    options = Options(
        users=arguments.users,
        seconds=arguments.seconds,
        warmup_s=arguments.warmup,
        page_size=arguments.page_size,
        max_num_seqs=arguments.max_num_seqs,
        floor_tps=arguments.floor,
        growth_room=arguments.growth_room,
        seed=arguments.seed,
    )
    device, workload = PRESETS[arguments.device], WORKLOADS[arguments.workload]
    fleets = [
        Fleet(
            device=device,
            workload=workload,
            options=replace(options, chunk_tokens=chunk, min_tps=floor),
            replicas=replicas,
        )
        for replicas in arguments.replicas
        for chunk in arguments.chunk_tokens
        for floor in arguments.min_tps
    ]
    print(f"{device.name}: {device.kv_tokens:,} tokens of KV cache", *device.source, sep="\n  ")
    print(f"{workload.name}: {workload.source}")
    rows = []
    for fleet in fleets:
        began = time.monotonic()
        rows.append(report.figures(fleet, simulate(fleet, processes=arguments.processes)))
        what = f"{fleet.replicas} replicas, chunks of {fleet.options.chunk_tokens}, floor {fleet.options.min_tps:g}"
        print(f"{what}: simulated in {time.monotonic() - began:.1f} s", file=sys.stderr)
        if arguments.json:  # after each: many replicas take long
            report.write_json(arguments.json, fleets, rows)
    print(report.table(rows))
    if arguments.plot:
        report.plot(arguments.plot, fleets, rows)
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _floors(text: str) -> list[float]:
    floors = [float(part) for part in text.split(",")]
    if not all(floor >= 0 for floor in floors):
        raise argparse.ArgumentTypeError(f"{text} has a floor below 0")
    return floors


def _positives(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]
