"""The process with real sockets: a worker and an entry that speak the protocol, and every way to end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from ts_protocol.channels import Channel
from ts_protocol.config import SchedulerConfig
from ts_protocol.endpoints import RuntimeDirectory
from ts_protocol.errors import HandshakeError
from ts_protocol.handshake import greet, hello
from ts_protocol.messages import (
    ROW_SAMPLE,
    Abort,
    ChildToSupervisor,
    Failed,
    Heartbeat,
    KvCapacity,
    Ready,
    Rejected,
    SamplingParams,
    SchedulerToEntry,
    SchedulerToWorker,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
)
from ts_protocol.wire import IntArray, rows, slots_of

CAPACITY = KvCapacity(page_size=4, num_pages=64, max_num_seqs=8, max_model_len=128, vocab_size=100)
FINGERPRINT = "toy"
TIMEOUT = 20.0


@dataclass
class Launched:
    """A scheduler process, and the other ends of its sockets."""

    process: subprocess.Popen[str]
    directory: RuntimeDirectory
    context: "zmq.Context[zmq.Socket[bytes]]"
    control: "zmq.Socket[bytes]"
    channels: list[Channel[Any]] = field(default_factory=list)

    def connect(self, name: str, incoming: Any) -> Channel[Any]:
        channel: Channel[Any] = Channel.connect(self.context, self.directory.address(name), incoming=incoming)
        self.channels.append(channel)
        return channel

    def worker(self, *, fingerprint: str = FINGERPRINT, kv: KvCapacity | None = CAPACITY) -> Channel[Any]:
        channel = self.connect("worker-0", SchedulerToWorker)
        greet(channel, hello(role="worker", fingerprint=fingerprint, kv=kv), expect="scheduler", timeout=TIMEOUT)
        return channel

    def entry(self) -> Channel[Any]:
        channel = self.connect("entry", SchedulerToEntry)
        welcome = greet(channel, hello(role="entry", fingerprint=FINGERPRINT), expect="scheduler", timeout=TIMEOUT)
        assert welcome.kv == CAPACITY
        return channel

    def next_control(self, kind: type) -> Any:
        decoder = msgspec.msgpack.Decoder(ChildToSupervisor)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if self.control.poll(100):
                message = decoder.decode(self.control.recv())
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} within {TIMEOUT} s")

    def sockets(self) -> set[str]:
        return {path.name for path in self.directory.path.glob("*.sock")} - {"control.sock"}

    def ended(self) -> int:
        code = self.process.wait(TIMEOUT)
        assert self.sockets() == set()
        return code


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(**options: Any) -> Launched:
        directory = RuntimeDirectory()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        control = context.socket(zmq.PULL)
        control.bind(directory.address("control"))
        config = SchedulerConfig(
            entry_address=directory.address("entry"),
            worker_addresses=(directory.address("worker-0"),),
            control_address=directory.address("control"),
            fingerprint=FINGERPRINT,
            **{"chunk_tokens": 16, "max_queued": 4, **options},
        )
        path = tmp_path / "scheduler.json"
        path.write_bytes(msgspec.json.encode(config))
        process = subprocess.Popen(
            [sys.executable, "-m", "ts_scheduler", str(path)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        launched = Launched(process, directory, context, control)
        started.append(launched)
        return launched

    yield start
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
        launched.process.communicate(timeout=TIMEOUT)
        for channel in launched.channels:
            channel.close()
        launched.control.close(linger=0)
        launched.context.term()
        launched.directory.close()


def receive(channel: Channel[Any]) -> tuple[Any, list[IntArray]]:
    assert channel.poll(TIMEOUT), "nothing came"
    received = channel.try_recv()
    assert received is not None
    return received


def run_step(channel: Channel[Any], token: int) -> StepPlan:
    """Take one plan and answer it, each sampling row with ``token``."""
    plan, frames = receive(channel)
    assert isinstance(plan, StepPlan)
    samples = len(slots_of(plan.decodes)) + int((rows(frames[0], 4)[:, 3] & ROW_SAMPLE).astype(bool).sum())
    channel.send(StepResult(plan.step), np.full(samples, token, dtype=np.int32))
    return plan


def submit(channel: Channel[Any], request_id: int, prompt: list[int], max_tokens: int = 3, **fields: Any) -> None:
    sampling = fields.get("sampling", SamplingParams())
    message = Submit(request_id, max_tokens, fields.get("stop", ()), sampling)
    channel.send(message, np.array(prompt, dtype=np.int32))


def receive_outputs(channel: Channel[Any]) -> Any:
    while True:
        message, _ = receive(channel)
        if not isinstance(message, Stats):
            return message


def test_a_request_runs_from_submit_to_finish(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    assert launched.next_control(Ready).detail["kv_tokens"] == "256"
    sampling = SamplingParams(temperature=0.5, seed=7)
    submit(entry, 11, [1, 2, 3, 4, 5], sampling=sampling)
    plans = [run_step(worker, token) for token in (21, 22, 23)]
    assert [admit.sampling for admit in plans[0].admits] == [sampling]
    outputs = [receive_outputs(entry).outputs[0] for _ in range(3)]
    assert [output.tokens for output in outputs] == [(21,), (22,), (23,)]
    assert [output.finish for output in outputs] == [None, None, "length"]
    assert launched.next_control(Heartbeat).role == "scheduler"


def test_the_entry_may_connect_before_the_worker(launch: Callable[..., Launched]) -> None:
    launched = launch()
    entry = launched.connect("entry", SchedulerToEntry)
    entry.send(hello(role="entry", fingerprint=FINGERPRINT))
    assert not entry.poll(0.3)
    launched.worker()
    assert receive(entry)[0].kv == CAPACITY


def test_bad_requests_are_rejected_and_others_go_on(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    submit(entry, 1, [])
    submit(entry, 2, [1] * 200)
    submit(entry, 3, [5, 100])
    submit(entry, 2**63, [5])
    submit(entry, 4, [5], max_tokens=2**63)
    entry.socket.send(b"\xc1 not a message")
    entry.send(Abort(77))
    submit(entry, 5, [5], max_tokens=1)
    codes = {}
    for _ in range(5):
        rejected = receive_outputs(entry)
        assert isinstance(rejected, Rejected)
        codes[rejected.request_id] = rejected.code
    assert codes == {1: "empty_prompt", 2: "too_long", 3: "invalid", 2**63: "invalid", 4: "invalid"}
    run_step(worker, 9)
    assert receive_outputs(entry).outputs[0].finish == "length"


def test_an_abort_ends_the_request_and_frees_its_pages(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    submit(entry, 1, [1, 2, 3], max_tokens=50)
    run_step(worker, 4)
    assert receive_outputs(entry).outputs[0].tokens == (4,)
    entry.send(Abort(1))
    output = receive_outputs(entry).outputs[0]
    assert (output.request_id, output.tokens, output.finish) == (1, (), "abort")
    stats = None
    deadline = time.monotonic() + TIMEOUT
    while (stats is None or stats.pages_used or stats.requests_running) and time.monotonic() < deadline:
        if worker.poll(0):
            run_step(worker, 4)  # what was in flight
        message, _ = receive(entry)
        assert isinstance(message, Stats), "no output follows an abort"
        stats = message
    assert stats is not None
    assert (stats.pages_used, stats.requests_running) == (0, 0)


def test_plans_leave_before_outputs_and_two_may_be_in_flight(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    submit(entry, 1, [1, 2, 3], max_tokens=10)
    first, second = receive(worker)[0], receive(worker)[0]
    assert (first.step, second.step) == (1, 2)
    assert not worker.poll(0.1)
    worker.send(StepResult(1), np.array([4], dtype=np.int32))
    assert receive(worker)[0].step == 3


def test_a_limit_out_of_range_is_one_sentence(launch: Callable[..., Launched]) -> None:
    launched = launch(chunk_tokens=0)
    launched.worker()
    sentence = "the scheduler cannot be configured so: chunk_tokens is 0; it is from 1 to 16777216"
    assert launched.next_control(Failed).message == sentence
    assert launched.ended() == 1
    assert launched.process.stderr is not None
    assert launched.process.stderr.read() == f"ts_scheduler: {sentence}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["waiting", "serving"])
def test_signals_end_the_process_cleanly(launch: Callable[..., Launched], number: int, phase: str) -> None:
    launched = launch()
    if phase == "serving":
        launched.worker()
        submit(launched.entry(), 1, [1, 2, 3])
    else:
        launched.next_control(Heartbeat)
        assert launched.sockets() == {"entry.sock", "worker-0.sock"}
    launched.process.send_signal(number)
    assert launched.ended() == 0
    assert launched.process.stderr is not None
    assert launched.process.stderr.read() == ""


@pytest.mark.parametrize("leaver", ["worker", "entry"])
def test_a_lost_peer_ends_the_process_with_a_reason(launch: Callable[..., Launched], leaver: str) -> None:
    launched = launch()
    channels = {"worker": launched.worker(), "entry": launched.entry()}
    launched.next_control(Ready)
    channels[leaver].close()
    assert leaver in launched.next_control(Failed).message
    assert launched.ended() == 1


def test_a_foreign_model_is_refused_with_both_names(launch: Callable[..., Launched]) -> None:
    launched = launch()
    with pytest.raises(HandshakeError, match=r"other.*toy"):
        launched.worker(fingerprint="other")
    assert "other" in launched.next_control(Failed).message
    assert launched.ended() == 1


def test_a_result_that_does_not_fit_ends_the_process_with_a_reason(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    submit(entry, 1, [1, 2, 3])
    receive(worker)
    worker.send(StepResult(1), np.array([4, 5], dtype=np.int32))
    assert "2 tokens" in launched.next_control(Failed).message
    assert launched.ended() == 1


def test_a_new_entry_starts_clean(launch: Callable[..., Launched]) -> None:
    launched = launch()
    worker, entry = launched.worker(), launched.entry()
    submit(entry, 1, [1, 2, 3], max_tokens=1)
    plan, _ = receive(worker)
    entry.send(hello(role="entry", fingerprint=FINGERPRINT))
    message = receive_outputs(entry)
    while isinstance(message, TokenBatch):
        message = receive_outputs(entry)
    assert message.kv == CAPACITY
    submit(entry, 1, [1, 2, 3, 4], max_tokens=1)
    assert receive_outputs(entry).code == "duplicate", "its pages are in use until the step has come back"
    worker.send(StepResult(plan.step), np.array([9], dtype=np.int32))
    stats, _ = receive(entry)
    while stats.requests_running:
        stats, _ = receive(entry)
    submit(entry, 1, [1, 2, 3, 4], max_tokens=1)
    run_step(worker, 8)
    assert receive_outputs(entry).outputs[0].tokens == (8,)


def test_it_ends_with_its_parent(launch: Callable[..., Launched], tmp_path: Path) -> None:
    launched = launch()  # for the sockets' directory; its own process ends here
    launched.next_control(Heartbeat)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.ended() == 0
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "scheduler.json")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    launched.next_control(Heartbeat)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + TIMEOUT
    while launched.sockets() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert launched.sockets() == set(), child


_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "ts_scheduler", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("content", ["", "{}", json.dumps({"surprise": 1})])
def test_a_bad_configuration_is_one_line_and_code_2(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    ended = subprocess.run(
        [sys.executable, "-m", "ts_scheduler", str(path)], capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert os.path.basename(path) in ended.stderr
