"""Typed message channels over ZeroMQ DEALER sockets: blocking for process loops, callback-driven for asyncio."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
import zmq

from ts_protocol.endpoints import CurveKeys, open_socket
from ts_protocol.errors import MalformedError
from ts_protocol.wire import IntArray, Wire

T = TypeVar("T")
Context = zmq.Context[zmq.Socket[bytes]]

DRAIN_MESSAGES: Final = 64
"""Messages that an AsyncChannel handles before it lets other callbacks of the loop run."""


class Channel(Generic[T]):
    """One end of a two-way channel, for a thread that may block.

    Malformed messages are dropped and counted in ``malformed``; with ``strict`` they also raise ``MalformedError``, for
    a side that cannot go on after a loss.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", *, incoming: Any, strict: bool = False) -> None:
        self.socket = socket
        self._wire: Wire[T] = Wire(socket, incoming=incoming)
        self._strict = strict

    @classmethod
    def bind(
        cls, context: Context, address: str, *, incoming: Any, strict: bool = False, curve: CurveKeys | None = None
    ) -> "Channel[T]":
        """Own the address. ``incoming`` is the union of message types that are accepted."""
        return cls(open_socket(context, zmq.DEALER, address, bind=True, curve=curve), incoming=incoming, strict=strict)

    @classmethod
    def connect(
        cls, context: Context, address: str, *, incoming: Any, strict: bool = False, curve: CurveKeys | None = None
    ) -> "Channel[T]":
        """Connect to the address, now or as soon as it is bound."""
        return cls(open_socket(context, zmq.DEALER, address, bind=False, curve=curve), incoming=incoming, strict=strict)

    @property
    def malformed(self) -> int:
        """Messages that were dropped."""
        return self._wire.malformed

    @property
    def last_error(self) -> MalformedError | None:
        """Why the latest dropped message was dropped."""
        return self._wire.last_error

    def fileno(self) -> int:
        """The edge-triggered ZeroMQ descriptor; ``zmq.Poller`` takes ``.socket`` itself."""
        return int(self.socket.FD)

    def send(self, message: msgspec.Struct, *arrays: IntArray) -> None:
        """Queue a message with its int32 arrays; never blocks.

        Arrays above 64 KiB are not copied: leave them unchanged afterwards.

        Raises:
            ChannelError: nobody is connected, or the arrays do not fit the message.
        """
        self._wire.send_frames(message, arrays)

    def send_encoded(self, kind: type[msgspec.Struct], header: bytes, *frames: bytes) -> None:
        """As ``send``, for a message of this kind that is encoded already.

        Raises:
            ChannelError: nobody is connected, or the frames do not fit the message.
        """
        self._wire.send_encoded(kind, header, frames)

    def poll(self, seconds: float | None = None) -> bool:
        """Wait until something can be received, at most this long (``None``: for ever)."""
        return bool(self.socket.poll(None if seconds is None else round(seconds * 1000)))

    def recv(self) -> tuple[T, list[IntArray]]:
        """The next message and its arrays (read-only views, 1-D; see ``rows``); waits for it."""
        while True:
            received = self._receive(0)
            if received is not None:
                return received

    def try_recv(self) -> tuple[T, list[IntArray]] | None:
        """The next message if one is there."""
        while True:
            try:
                received = self._receive(zmq.NOBLOCK)
            except zmq.Again:
                return None
            if received is not None:
                return received

    def close(self, *, linger: float = 0) -> None:
        """Close the socket; what is queued gets this many seconds to leave."""
        self.socket.close(linger=round(linger * 1000))

    def _receive(self, flags: int) -> tuple[T, list[IntArray]] | None:
        frames = self._wire.receive_frames(flags)
        try:
            return self._wire.decode(frames)
        except MalformedError:
            if self._strict:
                raise
            return None


class AsyncChannel(Generic[T]):
    """One end of a channel on an asyncio or uvloop event loop: ``on_message(message, arrays)`` for each arrival.

    The ZeroMQ descriptor is edge-triggered and any call on the socket may consume the edge, so arrivals are drained
    until there are none, and looked for again after each send. There is no future or task per message. Use it from
    the loop's thread only. Malformed messages are dropped and counted in ``malformed``.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        *,
        incoming: Any,
        on_message: Callable[[T, list[IntArray]], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.socket = socket
        self._wire: Wire[T] = Wire(socket, incoming=incoming)
        self._on_message = on_message
        self._loop = loop or asyncio.get_running_loop()
        self._closed = False
        self._scheduled = False
        self._fd = int(socket.FD)
        self._loop.add_reader(self._fd, self._drain)
        self._schedule()  # what arrived before add_reader made its edge already

    @classmethod
    def bind(
        cls,
        context: Context,
        address: str,
        *,
        incoming: Any,
        on_message: Callable[[T, list[IntArray]], None],
        kind: int = zmq.DEALER,
        curve: CurveKeys | None = None,
    ) -> "AsyncChannel[T]":
        """Own the address, on the running loop."""
        socket = open_socket(context, kind, address, bind=True, curve=curve)
        return cls(socket, incoming=incoming, on_message=on_message)

    @classmethod
    def connect(
        cls,
        context: Context,
        address: str,
        *,
        incoming: Any,
        on_message: Callable[[T, list[IntArray]], None],
        curve: CurveKeys | None = None,
    ) -> "AsyncChannel[T]":
        """Connect to the address, now or as soon as it is bound, on the running loop."""
        socket = open_socket(context, zmq.DEALER, address, bind=False, curve=curve)
        return cls(socket, incoming=incoming, on_message=on_message)

    @property
    def malformed(self) -> int:
        """Messages that were dropped."""
        return self._wire.malformed

    @property
    def last_error(self) -> MalformedError | None:
        """Why the latest dropped message was dropped."""
        return self._wire.last_error

    def send(self, message: msgspec.Struct, *arrays: IntArray) -> None:
        """Queue a message with its int32 arrays; never blocks. As ``Channel.send``."""
        try:
            self._wire.send_frames(message, arrays)
        finally:
            if not self._scheduled and int(self.socket.EVENTS) & zmq.POLLIN:
                self._schedule()

    def close(self, *, linger: float = 0) -> None:
        """Stop listening and close the socket; more than once does no harm."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self.socket.close(linger=round(linger * 1000))

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._drain_scheduled)

    def _drain_scheduled(self) -> None:
        self._scheduled = False
        self._drain()

    def _drain(self) -> None:
        """Hand over arrivals. An exception of ``on_message`` goes to the loop's handler, the rest comes later."""
        handled = 0
        try:
            while not self._closed and handled < DRAIN_MESSAGES:
                try:
                    frames = self._wire.receive_frames(zmq.NOBLOCK)
                except zmq.Again:
                    return
                handled += 1
                with contextlib.suppress(MalformedError):
                    message, arrays = self._wire.decode(frames)
                    self._on_message(message, arrays)
        except BaseException:
            self._continue()
            raise
        self._continue()

    def _continue(self) -> None:
        if not self._closed and not self._scheduled:
            self._schedule()
