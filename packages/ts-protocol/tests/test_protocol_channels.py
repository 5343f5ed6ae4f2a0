"""Channels over real sockets: round trips, hostile bytes, limits, edges and keys."""

import asyncio
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvloop
import zmq
from ts_protocol import AsyncChannel, Channel, ChannelError, CurveKeys, IntArray, MalformedError, RuntimeDirectory, rows
from ts_protocol.messages import (
    Abort,
    EntryToScheduler,
    Heartbeat,
    SamplingParams,
    SchedulerToWorker,
    SlotAdmit,
    StepPlan,
    StepResult,
    Submit,
    WorkerToScheduler,
)
from ts_protocol.wire import MAX_FRAMES

PLAN = StepPlan(7, [SlotAdmit(3, SamplingParams(0.5, 0.9, 40, 2**62))], [1, 2])
ROWS = np.array([[0, 5, 1, 3], [3, 0, 4, 0]], dtype=np.int32)
TOKENS = np.array([9, 8, 7, 6], dtype=np.int32)
PAGES = np.array([[3, 0, 1, 11], [3, 2, 0, 4]], dtype=np.int32)
STATES = np.array([[3, 2, 7, 16, 1]], dtype=np.int32)


class KeepingContext(zmq.Context[Any]):
    """Holds its sockets, so that ``destroy`` finds those that a test has let go."""

    def socket(self, *arguments: Any, **options: Any) -> Any:
        made = super().socket(*arguments, **options)
        self.__dict__.setdefault("kept", []).append(made)
        return made


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    made = KeepingContext()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def directory() -> Iterator[RuntimeDirectory]:
    with RuntimeDirectory() as made:
        yield made


def pair(context: Any, directory: RuntimeDirectory, *, strict: bool = False) -> tuple[Channel[Any], Channel[Any]]:
    address = directory.address("worker-0")
    scheduler: Channel[Any] = Channel.bind(context, address, incoming=WorkerToScheduler, strict=strict)
    worker: Channel[Any] = Channel.connect(context, address, incoming=SchedulerToWorker, strict=strict)
    return scheduler, worker


def test_a_plan_arrives_as_it_was_sent(context: Any, directory: RuntimeDirectory) -> None:
    scheduler, worker = pair(context, directory)
    worker.send(StepResult(0), np.zeros(0, np.int32))
    assert scheduler.poll(5)
    message, (tokens,) = scheduler.recv()
    assert message == StepResult(0)
    assert tokens.shape == (0,)
    scheduler.send(PLAN, ROWS, TOKENS, PAGES, STATES)
    plan, frames = worker.recv()
    assert plan == PLAN
    assert [frame.dtype for frame in frames] == [np.int32] * 4
    np.testing.assert_array_equal(rows(frames[0], 4), ROWS)
    np.testing.assert_array_equal(frames[1], TOKENS)
    np.testing.assert_array_equal(rows(frames[2], 4), PAGES)
    np.testing.assert_array_equal(rows(frames[3], 5), STATES)
    assert not frames[0].flags.owndata, "a received array is a view of the frame"
    assert worker.try_recv() is None


def test_large_frames_arrive_whole(context: Any, directory: RuntimeDirectory) -> None:
    left: Channel[Any] = Channel.bind(context, directory.address("entry"), incoming=EntryToScheduler)
    right: Channel[Any] = Channel.connect(context, directory.address("entry"), incoming=EntryToScheduler)
    prompt = np.arange(100_000, dtype=np.int32)
    right.send(Submit(1, 5, (2,), SamplingParams()), prompt)
    _, (received,) = left.recv()
    np.testing.assert_array_equal(received, prompt)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff\x00garbage"],
        [b"\x93\xa6result\x01"],
        [b"\x92\xa6result\x01"],
        [b"\x92\xa6result\x01", b"abc"],
        [b"\x92\xa6result\x01", b"", b""],
        [b"\x92\xa6result\x01"] * (MAX_FRAMES + 50),
        [b"\x92\xa6result\xa1\xff", b""],
    ],
    ids=["empty", "garbage", "cut", "frame missing", "odd frame", "frame too many", "flood", "bad utf-8"],
)
def test_malformed_messages_are_dropped_and_counted(
    context: Any, directory: RuntimeDirectory, frames: list[bytes]
) -> None:
    scheduler: Channel[Any] = Channel.bind(context, directory.address("w"), incoming=WorkerToScheduler)
    raw = context.socket(zmq.DEALER)
    raw.connect(directory.address("w"))
    raw.send_multipart(frames)
    raw.send_multipart([b"\x92\xa6result\x05", np.array([4], np.int32).tobytes()])
    message, (tokens,) = scheduler.recv()
    assert (message, tokens.tolist()) == (StepResult(5), [4])
    assert scheduler.malformed == 1
    assert isinstance(scheduler.last_error, MalformedError)


def test_a_strict_channel_raises_for_a_malformed_message(context: Any, directory: RuntimeDirectory) -> None:
    scheduler: Channel[Any] = Channel.bind(context, directory.address("w"), incoming=WorkerToScheduler, strict=True)
    raw = context.socket(zmq.DEALER)
    raw.connect(directory.address("w"))
    raw.send_multipart([b"\x92\xa6result\x01", b"abcde"])
    with pytest.raises(MalformedError, match="frame 1 of StepResult has 5 bytes"):
        scheduler.recv()
    assert scheduler.try_recv() is None


def test_sending_what_does_not_fit_is_an_error_and_leaves_nothing_behind(
    context: Any, directory: RuntimeDirectory
) -> None:
    scheduler, worker = pair(context, directory)
    with pytest.raises(ChannelError, match="StepResult travels with 1 array frames, not 0"):
        worker.send(StepResult(1))
    with pytest.raises(ChannelError, match="contiguous int32, this one is int64"):
        worker.send(StepResult(1), np.zeros(3, np.int64))
    with pytest.raises(ChannelError, match="no peer is connected"):
        Channel.bind(context, directory.address("lonely"), incoming=WorkerToScheduler).send(StepResult(1), TOKENS)
    worker.send(StepResult(2), TOKENS)
    assert scheduler.recv()[0] == StepResult(2)


def test_addresses_that_cannot_be_used_are_named(context: Any, directory: RuntimeDirectory) -> None:
    with pytest.raises(ChannelError, match="tcp needs CURVE keys"):
        Channel.bind(context, "tcp://127.0.0.1:0", incoming=WorkerToScheduler)
    with pytest.raises(ChannelError, match="use ipc://"):
        Channel.bind(context, "udp://127.0.0.1:1", incoming=WorkerToScheduler)
    with pytest.raises(ChannelError, match="cannot bind ipc:///no/such/folder/x"):
        Channel.bind(context, "ipc:///no/such/folder/x", incoming=WorkerToScheduler)
    with pytest.raises(ChannelError, match="exceeds 107 bytes; set TMPDIR"):
        directory.address("x" * 100)


def test_tcp_with_curve_keys_carries_messages_and_keeps_strangers_out(context: Any) -> None:
    server = CurveKeys.generate()
    scheduler: Channel[Any] = Channel.bind(context, "tcp://127.0.0.1:*", incoming=WorkerToScheduler, curve=server)
    endpoint = scheduler.socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    address = endpoint.decode().rstrip("\0")
    keyless = context.socket(zmq.DEALER)
    keyless.connect(address)
    keyless.send_multipart([b"\x92\xa6result\x01", b""])
    with pytest.raises(ChannelError, match=r"server_public"):
        Channel.connect(context, address, incoming=SchedulerToWorker, curve=CurveKeys.generate())
    keys = CurveKeys.generate(server_public=server.public)
    worker: Channel[Any] = Channel.connect(context, address, incoming=SchedulerToWorker, curve=keys)
    worker.send(StepResult(8), TOKENS)
    assert scheduler.poll(5)
    assert scheduler.recv()[0] == StepResult(8)
    assert not scheduler.poll(0.1)


def test_the_runtime_directory_is_private_and_leaves_nothing() -> None:
    directory = RuntimeDirectory()
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    (directory.path / "x.sock").touch()
    directory.close()
    directory.close()
    assert not directory.path.exists()


def run_on(loop_kind: str, main: Any) -> None:
    factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])
def test_async_channel_loses_no_message_while_both_sides_talk(directory: RuntimeDirectory, loop_kind: str) -> None:
    count = 3000
    address = directory.address("entry")
    context = KeepingContext()

    def peer() -> None:
        channel: Channel[Any] = Channel.connect(context, address, incoming=EntryToScheduler)
        for index in range(count):
            channel.send(Heartbeat("worker", 0, index))
            if index % 97 == 0:
                time.sleep(0.001)
        heard = [channel.recv()[0].request_id for _ in range(count)]
        assert heard == list(range(count))
        channel.close()

    async def main() -> None:
        seen: list[int] = []
        finished = asyncio.Event()

        def on_message(message: Any, _: list[IntArray]) -> None:
            channel.send(Abort(message.steps))  # a send inside the callback may eat the edge of the next arrival
            seen.append(message.steps)
            if len(seen) == count:
                finished.set()

        channel: AsyncChannel[Any] = AsyncChannel.bind(context, address, incoming=Heartbeat, on_message=on_message)
        thread = threading.Thread(target=peer)
        thread.start()
        await asyncio.wait_for(finished.wait(), 30)
        assert seen == list(range(count))
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
        channel.close()

    run_on(loop_kind, main())
    context.destroy(linger=0)


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])
def test_async_channel_sees_an_arrival_whose_edge_a_send_consumed(directory: RuntimeDirectory, loop_kind: str) -> None:
    context = KeepingContext()

    async def main() -> None:
        arrived: list[int] = []
        channel: AsyncChannel[Any] = AsyncChannel.bind(
            context, directory.address("e"), incoming=Heartbeat, on_message=lambda m, _: arrived.append(m.steps)
        )
        peer: Channel[Any] = Channel.connect(context, directory.address("e"), incoming=EntryToScheduler)
        peer.send(Heartbeat("worker", 0, 0))
        while not arrived:
            await asyncio.sleep(0.001)
        for step in range(1, 50):
            peer.send(Heartbeat("worker", 0, step))
            time.sleep(0.002)  # it reaches this socket while the loop is busy
            channel.send(Abort(step))  # processes the socket's commands, and with them the edge
            for _ in range(100):
                if arrived[-1] == step:
                    break
                await asyncio.sleep(0.001)
            assert arrived[-1] == step
        channel.close()

    run_on(loop_kind, main())
    context.destroy(linger=0)


def test_async_channel_survives_hostile_bytes_and_a_failing_callback(directory: RuntimeDirectory) -> None:
    context = KeepingContext()

    async def main() -> None:
        arrived: list[int] = []
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what["exception"]))

        def on_message(message: Any, _: list[IntArray]) -> None:
            arrived.append(message.steps)
            if message.steps == 1:
                raise RuntimeError("a bug in the callback")

        channel: AsyncChannel[Any] = AsyncChannel.bind(
            context, directory.address("e"), incoming=Heartbeat, on_message=on_message
        )
        peer = context.socket(zmq.DEALER)
        peer.connect(directory.address("e"))
        for step in (1, 2):
            peer.send(b"\xc1" * 9)
            peer.send(b"\x94\xa9heartbeat\xa6worker\x00" + bytes([step]))
        deadline = time.monotonic() + 5
        while len(arrived) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert arrived == [1, 2]
        assert channel.malformed == 2
        assert [str(error) for error in reported] == ["a bug in the callback"]
        channel.close()
        channel.close()

    run_on("asyncio", main())
    context.destroy(linger=0)
