"""The scheduler process: receive, settle, plan, send."""

import contextlib
import gc
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Never

import msgspec
import zmq
from ts_protocol.channels import Channel, Context
from ts_protocol.config import SchedulerConfig
from ts_protocol.control import ControlSender
from ts_protocol.errors import ProtocolError
from ts_protocol.messages import (
    Abort,
    EntryToScheduler,
    KvCapacity,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerToScheduler,
)
from ts_protocol.wire import IntArray

from ts_scheduler.errors import PeerLostError, SchedulerError
from ts_scheduler.handshakes import EntryChannel, WorkerChannel, common_capacity, greet_entry, greet_worker
from ts_scheduler.requests import Engine, limits_of

TICK_SECONDS: Final = 0.5
"""Between two heartbeats, and between two statistics at least."""
LAST_WORDS_SECONDS: Final = 0.2
"""For a refusal to leave before the socket closes."""


class Service:
    """One scheduler: binds its addresses when made, serves until something ends it, leaves no socket file.

    ``with Service(config, control) as service: service.run()``
    """

    def __init__(self, config: SchedulerConfig, control: ControlSender, *, context: Context) -> None:
        """Raises ``ChannelError`` when an address cannot be bound."""
        self._config = config
        self._control = control
        self._parent = os.getppid()
        self._steps = 0
        self._next_tick = 0.0
        self._entry_is_met = False
        self._sent_stats: Stats | None = None
        self._outgoing: list[msgspec.Struct | bytes] = []  # bytes: an encoded TokenBatch
        self._poller = zmq.Poller()
        self._watches: dict[zmq.Socket[bytes], str] = {}
        with contextlib.ExitStack() as undo:
            self._entry: EntryChannel = self._bind(undo, context, config.entry_address, EntryToScheduler, "the entry")
            self._workers: list[WorkerChannel] = [
                self._bind(undo, context, address, WorkerToScheduler, f"worker {rank}", strict=True)
                for rank, address in enumerate(config.worker_addresses)
            ]
            self._close = undo.pop_all()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def run(self) -> Never:
        """Serve until a peer is lost (``PeerLostError``), a peer does not fit, or a signal ends the process."""
        self._control.progress("waiting for the workers")
        kv = self._meet_workers()
        engine = Engine(kv, **limits_of(self._config))
        self._control.ready({"kv_tokens": str(kv.num_pages * kv.page_size), "page_size": str(kv.page_size)})
        gc.collect()
        gc.freeze()  # what lives as long as the process is not walked again
        while True:
            self._wait()
            self._receive_results(engine)
            self._receive_requests(engine, kv)
            self._send_plans(engine)
            self._send_outputs()
            self._tick(engine)

    # --- phases ---------------------------------------------------------------------------------------------------

    def _meet_workers(self) -> KvCapacity:
        """Wait for each worker's hello. The entry may connect meanwhile; its messages wait in the socket."""
        self._poller.unregister(self._entry.socket)
        capacities: dict[int, KvCapacity] = {}
        while len(capacities) < len(self._workers):
            self._wait()
            for rank, channel in enumerate(self._workers):
                while (received := channel.try_recv()) is not None:
                    if rank in capacities:
                        raise _out_of_turn(rank, received[0])
                    capacities[rank] = greet_worker(
                        channel, received[0], rank=rank, fingerprint=self._config.fingerprint
                    )
            self._tick(None)
        self._poller.register(self._entry.socket, zmq.POLLIN)
        return common_capacity(list(capacities.values()))

    def _wait(self) -> None:
        """Until a message has arrived or the next tick is due; raises when a peer has gone."""
        left = max(0.0, self._next_tick - time.monotonic())
        for socket, _ in self._poller.poll(math.ceil(left * 1000)):
            peer = self._watches.get(socket)
            if peer is not None:
                raise PeerLostError(f"{peer} has disconnected from the scheduler")

    def _receive_results(self, engine: Engine) -> None:
        for rank, channel in enumerate(self._workers):
            while (received := channel.try_recv()) is not None:
                message, arrays = received
                if rank != 0 or not isinstance(message, StepResult):
                    raise _out_of_turn(rank, message)
                self._steps += 1
                batch, failed = engine.settle(message, arrays[0])
                if batch:
                    self._outgoing.append(batch)
                self._outgoing += failed

    def _receive_requests(self, engine: Engine, kv: KvCapacity) -> None:
        while (received := self._entry.try_recv()) is not None:
            message, arrays = received
            if isinstance(message, Submit):
                self._submit(engine, message, arrays[0])
            elif isinstance(message, Abort):
                self._abort(engine, message)
            else:  # a hello: the entry of now, whose predecessor's requests nobody waits for
                for request_id in engine.live_requests:
                    engine.abort(Abort(request_id))
                self._outgoing.clear()
                greet_entry(self._entry, message, kv=kv, fingerprint=self._config.fingerprint)
                self._entry_is_met = True

    def _submit(self, engine: Engine, message: Submit, prompt: IntArray) -> None:
        rejected = engine.submit(message, prompt)
        if rejected is not None:
            self._outgoing.append(rejected)

    def _abort(self, engine: Engine, message: Abort) -> None:
        output = engine.abort(message)
        if output is not None:
            self._outgoing.append(TokenBatch([output]))

    def _send_plans(self, engine: Engine) -> None:
        """Before the outputs: the worker must not wait for the entry's messages to be encoded."""
        while (frames := engine.plan()) is not None:
            for channel in self._workers:
                channel.send_encoded(StepPlan, *frames)

    def _send_outputs(self) -> None:
        for message in self._outgoing:
            if isinstance(message, bytes):
                self._entry.send_encoded(TokenBatch, message)
            else:
                self._entry.send(message)
        self._outgoing.clear()

    def _tick(self, engine: Engine | None) -> None:
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK_SECONDS
        if os.getppid() != self._parent:
            raise PeerLostError("the process that started the scheduler has gone")
        self._control.heartbeat(self._steps)
        if engine is not None and self._entry_is_met:
            stats = engine.stats()
            if stats != self._sent_stats:
                self._sent_stats = stats
                self._entry.send(stats)

    # --- sockets --------------------------------------------------------------------------------------------------

    def _bind(
        self,
        undo: contextlib.ExitStack,
        context: Context,
        address: str,
        incoming: Any,
        peer: str,
        *,
        strict: bool = False,
    ) -> Channel[Any]:
        undo.callback(_unlink, address)
        channel: Channel[Any] = Channel.bind(context, address, incoming=incoming, strict=strict)
        undo.callback(channel.close, linger=LAST_WORDS_SECONDS)
        monitor = channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        undo.callback(channel.socket.disable_monitor)
        undo.callback(monitor.close, 0)
        self._watches[monitor] = peer
        self._poller.register(monitor, zmq.POLLIN)
        self._poller.register(channel.socket, zmq.POLLIN)
        return channel


def _out_of_turn(rank: int, message: object) -> PeerLostError:
    return PeerLostError(f"worker {rank} sent {type(message).__name__} out of turn; restart it with the scheduler")


def _unlink(address: str) -> None:
    if address.startswith("ipc://"):
        with contextlib.suppress(OSError):
            Path(address.removeprefix("ipc://")).unlink()


def unlink_sockets(config: SchedulerConfig) -> None:
    """Remove the files of its addresses, for a process that ends without closing them."""
    for address in (config.entry_address, *config.worker_addresses):
        _unlink(address)


@contextlib.contextmanager
def service(config: SchedulerConfig) -> Iterator[Service]:
    """A service with its own ZeroMQ context and control channel; errors reach the supervisor before they propagate."""
    context: Context = zmq.Context()
    try:
        control = ControlSender(context, config.control_address, role="scheduler")
        try:
            with Service(config, control, context=context) as running:
                yield running
        except (ProtocolError, SchedulerError) as error:
            control.failed(str(error))
            raise
        except Exception as error:
            control.failed(f"{type(error).__name__}: {error}")
            raise
        finally:
            control.close()
    finally:
        context.term()
