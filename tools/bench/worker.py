"""The worker alone: steps a second and where the time goes, with plans made by the benchmark and sent over ipc.

    uv run python tools/bench/worker.py [--checkpoint DIR] [--cases decode-1-short ...] [--steps 100] [--json FILE]

Contexts are simulated: their pages are there and hold zeros, so a decode at 8K reads as much as a real one.
"""

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ts_modeling
import zmq
from ts_modeling import load_model
from ts_protocol import Channel, RuntimeDirectory
from ts_protocol.messages import SchedulerToWorker, StepResult, WorkerToScheduler
from ts_runtime.devices import open_device
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import allocate
from ts_runtime.settings import thread_count
from ts_runtime.testing import Plan, PlanMaker

MINIATURE = Path(ts_modeling.__file__).parent / "miniatures/kimi_k25"
STAGES = ("receive", "prepare", "forward", "sample", "send")
SLOTS = 16


@dataclass(frozen=True)
class Case:
    """``rows`` decodes at ``context`` tokens, or (rows 0) the prefill of ``context`` tokens."""

    rows: int
    context: int


CASES = {
    "decode-1-short": Case(1, 256),
    "decode-16-short": Case(16, 256),
    "decode-1-8k": Case(1, 8192),
    "decode-16-8k": Case(16, 8192),
    "prefill-8k": Case(0, 8192),
}


class Bench:
    """An executor, and both ends of its channel."""

    def __init__(self, options: argparse.Namespace, directory: RuntimeDirectory) -> None:
        torch.set_num_threads(thread_count(options.threads))
        device = open_device(options.device)
        model = load_model(options.checkpoint, device=device.torch_device, dtype=options.dtype)
        longest = 8192 + 4 * options.steps
        self.pool, cache = allocate(
            model,
            device,
            requested_tokens=SLOTS * (longest + options.page_size),
            max_model_len=longest,
            page_size=options.page_size,
            max_num_seqs=SLOTS,
        )
        self.chunk = options.chunk
        self.executor = Executor(
            model, cache, self.pool, device=device, max_num_seqs=SLOTS, chunk_tokens=options.chunk + SLOTS
        )
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        address = directory.address("bench")
        self.scheduler: Channel[Any] = Channel.bind(context, address, incoming=WorkerToScheduler)
        self.worker: Channel[Any] = Channel.connect(context, address, incoming=SchedulerToWorker)
        self.worker.send(StepResult(0), np.zeros(0, np.int32))
        self.scheduler.recv()

    def step(self, plan: Plan) -> tuple[list[float], np.ndarray[Any, Any]]:
        """Seconds of each stage of one step, and its tokens."""
        self.scheduler.send(plan[0], *plan[1])
        marks = [time.perf_counter()]
        message, frames = self.worker.recv()
        marks.append(time.perf_counter())
        prepared = self.executor.prepare(message, frames)
        assert prepared is not None
        marks.append(time.perf_counter())
        logits = self.executor.forward(prepared)
        marks.append(time.perf_counter())
        tokens = self.executor.sample(prepared, logits).wait()
        marks.append(time.perf_counter())
        self.worker.send(StepResult(message.step), tokens)
        marks.append(time.perf_counter())
        self.scheduler.recv()
        return [after - before for before, after in itertools.pairwise(marks)], tokens

    def decode(self, case: Case, steps: int) -> list[list[float]]:
        """Stage times of ``steps`` decodes."""
        maker = PlanMaker(num_pages=self.pool.num_pages, page_size=self.pool.page_size)
        for slot in range(case.rows):
            maker.admit(slot, [1] * case.context, cached=case.context - 1)
            maker.prefill(slot, 1)
        self._settled(maker)
        times = []
        for _ in range(steps + 5):
            for slot in range(case.rows):
                maker.decode(slot)
            times.append(self._settled(maker))
        for slot in range(case.rows):
            maker.release(slot)
        self.executor.launch(*maker.plan()).wait()
        return times[5:]

    def prefill(self, case: Case) -> list[list[float]]:
        """Stage times of the chunks of one prompt."""
        maker = PlanMaker(num_pages=self.pool.num_pages, page_size=self.pool.page_size)
        maker.admit(0, np.random.default_rng(0).integers(0, 5000, case.context).tolist())
        times = []
        while maker.live[0].planned < case.context:
            maker.prefill(0, min(self.chunk, case.context - maker.live[0].planned))
            times.append(self._settled(maker))
        maker.release(0)
        self.executor.launch(*maker.plan()).wait()
        return times

    def _settled(self, maker: PlanMaker) -> list[float]:
        plan = maker.plan()
        times, tokens = self.step(plan)
        maker.settle(plan, tokens)
        return times


def run_case(bench: Bench, name: str, steps: int) -> dict[str, Any]:
    """Figures of one case: medians of each stage in microseconds for decodes, sums for a prefill."""
    case = CASES[name]
    if case.rows:
        stages = np.median(bench.decode(case, steps), axis=0)
        rate = case.rows / stages.sum()
    else:
        stages = np.sum(bench.prefill(case), axis=0)
        rate = case.context / stages.sum()
    microseconds = {stage: round(float(value) * 1e6, 1) for stage, value in zip(STAGES, stages, strict=True)}
    return {"case": name, "tokens_per_second": round(float(rate), 1), **microseconds}


def main() -> None:
    """Run the cases and print a table in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=MINIATURE)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prefill step")
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    with RuntimeDirectory() as directory, torch.inference_mode():
        bench = Bench(options, directory)
        print(f"{'case':>16} {'tokens/s':>10} " + " ".join(f"{stage:>10}" for stage in STAGES) + "   (us)")
        figures = []
        for name in options.cases:
            figures.append(run_case(bench, name, options.steps))
            row = figures[-1]
            print(f"{name:>16} {row['tokens_per_second']:>10} " + " ".join(f"{row[stage]:>10}" for stage in STAGES))
        bench.worker.close()
        bench.scheduler.close()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
