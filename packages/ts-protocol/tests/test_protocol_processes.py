"""The handshake, the control channel, and the life of child processes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from ts_protocol import (
    Channel,
    ControlReceiver,
    ControlSender,
    HandshakeError,
    RuntimeDirectory,
    answer,
    check_answer,
    greet,
    hello,
)
from ts_protocol.messages import (
    PROTOCOL_VERSION,
    Failed,
    Heartbeat,
    Hello,
    KvCapacity,
    Progress,
    Ready,
    SchedulerToWorker,
    StepResult,
    Welcome,
    WorkerToScheduler,
)

KV = KvCapacity(16, 100, 8, 512, 6144)


@pytest.fixture
def ends() -> Iterator[tuple[Channel[Any], Channel[Any]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with RuntimeDirectory() as directory:
        scheduler: Channel[Any] = Channel.bind(context, directory.address("w"), incoming=WorkerToScheduler)
        worker: Channel[Any] = Channel.connect(context, directory.address("w"), incoming=SchedulerToWorker)
        yield scheduler, worker
        context.destroy(linger=0)


def meet(scheduler: Channel[Any], worker: Channel[Any], first: Any, *, fingerprint: str = "m-1") -> tuple[Any, Any]:
    """What each side of a handshake ends with: a message or an error."""
    theirs: list[Any] = []

    def serve() -> None:
        try:
            theirs.append(
                answer(
                    scheduler, scheduler.recv()[0], role="scheduler", expect="worker", fingerprint=fingerprint, kv=KV
                )
            )
        except HandshakeError as error:
            theirs.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ours: Any = greet(worker, first, expect="scheduler", timeout=5)
    except HandshakeError as error:
        ours = error
    thread.join(5)
    return ours, theirs[0]


def test_sides_that_fit_exchange_the_capacity(ends: tuple[Channel[Any], Channel[Any]]) -> None:
    first = hello(role="worker", fingerprint="m-1", rank=0, kv=KV)
    welcome, received = meet(*ends, first)
    assert received == first
    assert welcome == Welcome(PROTOCOL_VERSION, "scheduler", "m-1", KV)


@pytest.mark.parametrize(
    ("first", "values"),
    [
        (Hello(PROTOCOL_VERSION + 1, "worker", "m-1"), [str(PROTOCOL_VERSION + 1), f"side {PROTOCOL_VERSION}"]),
        (hello(role="worker", fingerprint="m-2"), ["'m-1'", "'m-2'", "same checkpoint"]),
        (hello(role="entry", fingerprint="m-1"), ["a entry connected where a worker belongs"]),
    ],
    ids=["protocol", "fingerprint", "role"],
)
def test_a_mismatch_names_both_values_on_both_sides(
    ends: tuple[Channel[Any], Channel[Any]], first: Hello, values: list[str]
) -> None:
    ours, theirs = meet(*ends, first)
    for error in (ours, theirs):
        assert isinstance(error, HandshakeError)
        for value in values:
            assert value in str(error)


def test_no_answer_and_wrong_answers_are_errors(ends: tuple[Channel[Any], Channel[Any]]) -> None:
    scheduler, worker = ends
    with pytest.raises(HandshakeError, match=r"did not answer within 0\.05 s"):
        greet(worker, hello(role="worker", fingerprint="m"), expect="scheduler", timeout=0.05)
    with pytest.raises(HandshakeError, match="answered with StepResult"):
        check_answer(StepResult(1), expect="scheduler", fingerprint="m")
    with pytest.raises(HandshakeError, match="this side 'other'"):
        check_answer(Welcome(PROTOCOL_VERSION, "scheduler", "m"), expect="scheduler", fingerprint="other")
    with pytest.raises(HandshakeError, match="sent StepResult before Hello"):
        answer(scheduler, StepResult(1), role="scheduler", expect="worker", fingerprint="m")


def test_control_messages_arrive_and_the_last_words_leave() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    heard: list[Any] = []

    async def main(address: str) -> None:
        receiver = ControlReceiver(context, address, on_message=heard.append)
        child: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sender = ControlSender(child, address, role="worker", rank=2)
        sender.progress("loading weights", 5, 10, "layer 3")
        sender.ready({"device": "cpu"})
        sender.heartbeat(7)
        sender.failed("out of memory")
        sender.close()
        child.term()  # waits for the linger: the message has left
        deadline = time.monotonic() + 5
        while len(heard) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        receiver.close()

    with RuntimeDirectory() as directory:
        asyncio.run(main(directory.address("control")))
    assert heard == [
        Progress("worker", 2, "loading weights", 5, 10, "layer 3"),
        Ready("worker", 2, {"device": "cpu"}),
        Heartbeat("worker", 2, 7),
        Failed("worker", 2, "out of memory"),
    ]
    context.destroy(linger=0)


def test_a_child_without_a_supervisor_works_on_and_closes_soon() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with RuntimeDirectory() as directory:
        sender = ControlSender(context, directory.address("nobody"), role="worker")
        for step in range(2000):
            sender.heartbeat(step)
        started = time.monotonic()
        sender.close(linger=0.1)
        context.term()
    assert time.monotonic() - started < 2


CHILD = """
import sys, time
from ts_protocol import die_with_parent, exit_on_signals
exit_on_signals()
print("alive" if die_with_parent(int(sys.argv[1])) else "orphan", flush=True)
while True:
    try:
        time.sleep(30)
    except BaseException:
        print("a library swallowed it", flush=True)
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "0"], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "alive\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.readline() == "", "the child, which holds the other end of the pipe, has ended"
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_a_child_whose_parent_is_gone_already_is_told() -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD.partition("while")[0], "1073741824"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert child.stdout == "orphan\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_child_whatever_it_catches(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, "0"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "alive\n"
        child.send_signal(number)
        assert child.stdout.read() == ""
        assert child.wait(5) == 0
