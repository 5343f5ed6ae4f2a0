"""Round trip of a step plan and its result between two processes, over an ipc channel.

uv run python tools/bench/protocol.py [--slots 1 16 256] [--seconds 2] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from ts_protocol import Channel, RuntimeDirectory
from ts_protocol.messages import SchedulerToWorker, StepPlan, StepResult, WorkerToScheduler
from ts_protocol.wire import bitmap_of, slots_of


def echo(address: str) -> None:
    """The other process: answers each plan with one token a row, until a plan without rows."""
    channel: Channel[Any] = Channel.connect(zmq.Context(), address, incoming=SchedulerToWorker)
    channel.send(StepResult(0), np.zeros(0, np.int32))
    while True:
        plan, _frames = channel.recv()
        slots = slots_of(plan.decodes)
        if not len(slots):
            break
        channel.send(StepResult(plan.step), slots.astype(np.int32))
    channel.close()


def measure(channel: Channel[Any], slots: int, seconds: float) -> dict[str, float]:
    """Microseconds of a round trip with ``slots`` decode rows."""
    decodes = bitmap_of(range(slots))
    none = np.zeros(0, np.int32)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        channel.send(StepPlan(len(times), [], [], decodes), none, none, none, none)
        channel.recv()
        times.append((time.perf_counter() - began) * 1e6)
    p50, p99 = np.percentile(times[len(times) // 10 :], [50, 99])
    return {"slots": slots, "round_trip_us_p50": round(float(p50), 1), "round_trip_us_p99": round(float(p99), 1)}


def main() -> None:
    """Measure each number of slots and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of slots")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        echo(options.echo)
        return
    with RuntimeDirectory() as directory:
        address = directory.address("bench")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        channel: Channel[Any] = Channel.bind(context, address, incoming=WorkerToScheduler)
        with subprocess.Popen([sys.executable, __file__, "--echo", address]):
            channel.recv()
            figures = [measure(channel, slots, options.seconds) for slots in options.slots]
            none = np.zeros(0, np.int32)
            channel.send(StepPlan(0, [], []), none, none, none, none)
        channel.close()
        context.term()
    for row in figures:
        print(f"{row['slots']:>5} slots: p50 {row['round_trip_us_p50']} us, p99 {row['round_trip_us_p99']} us")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
