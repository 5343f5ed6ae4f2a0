"""One message as ZeroMQ frames: a msgpack header, then int32 arrays that are neither copied nor pickled."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from ts_protocol.errors import ChannelError, MalformedError
from ts_protocol.messages import FRAME_COLUMNS

IntArray = npt.NDArray[np.int32]
T = TypeVar("T")

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Longest frame that is accepted: 16M tokens. ZeroMQ disconnects a peer that sends a longer one."""
MAX_FRAMES: Final = 1 + max(len(columns) for columns in FRAME_COLUMNS.values())


def rows(frame: IntArray, columns: int) -> IntArray:
    """The frame as a matrix ``[n, columns]``, without a copy; the channel has checked that the length fits."""
    return frame.reshape(-1, columns)


def bitmap_of(slots: Iterable[int]) -> bytes:
    """A bit for each slot, bit i of byte i // 8 for slot i, as ``StepPlan.decodes`` has them."""
    bits = bytearray()
    for slot in slots:
        bits.extend(bytes(max(0, slot // 8 + 1 - len(bits))))
        bits[slot // 8] |= 1 << slot % 8
    return bytes(bits)


def slots_of(bitmap: bytes) -> npt.NDArray[np.intp]:
    """The slots whose bits are set, ascending."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little"))


def buffer_of(array: IntArray) -> memoryview:
    """The array's bytes, without a copy.

    Raises:
        ChannelError: the array is not int32 or not contiguous.
    """
    if array.dtype != np.int32 or not array.flags.c_contiguous:
        raise ChannelError(f"array frames are contiguous int32, this one is {array.dtype} with strides {array.strides}")
    return array.reshape(-1).data


class Wire(Generic[T]):
    """Encodes any message and decodes those of one union, on one socket, with an encoder and a decoder built once.

    ``malformed`` counts the received messages that were dropped and ``last_error`` tells why the latest one was.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", *, incoming: Any) -> None:
        self.socket = socket
        self.malformed = 0
        self.last_error: MalformedError | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(incoming)
        self._header = bytearray()

    def send_frames(self, message: msgspec.Struct, arrays: tuple[IntArray, ...]) -> None:
        """Queue one message; never blocks.

        Arrays above ZeroMQ's copy threshold (64 KiB) are sent from where they lie: leave them unchanged afterwards.

        Raises:
            ChannelError: nobody is connected, or the arrays do not fit the message.
        """
        buffers = [buffer_of(array) for array in arrays]
        self._encoder.encode_into(message, self._header)
        self.send_encoded(type(message), self._header, buffers)

    def send_encoded(
        self, kind: type[msgspec.Struct], header: bytes | bytearray, frames: Sequence[bytes | memoryview]
    ) -> None:
        """As ``send_frames``, for a message of this kind that is encoded already.

        Raises:
            ChannelError: nobody is connected, or the frames do not fit the message.
        """
        columns = FRAME_COLUMNS.get(kind, ())
        if len(frames) != len(columns):
            raise ChannelError(f"{kind.__name__} travels with {len(columns)} array frames, not {len(frames)}")
        try:
            self.socket.send(header, zmq.NOBLOCK | (zmq.SNDMORE if frames else 0))
            for index, frame in enumerate(frames):
                more = zmq.SNDMORE if index + 1 < len(frames) else 0
                self.socket.send(frame, zmq.NOBLOCK | more, copy=False)
        except zmq.Again:
            raise ChannelError(f"{kind.__name__} cannot be sent: no peer is connected") from None

    def receive_frames(self, flags: int) -> list[memoryview]:
        """The frames of the next message; with ``zmq.NOBLOCK`` raises ``zmq.Again`` when there is none.

        Frames beyond ``MAX_FRAMES`` are read and forgotten, but counted: the list then has one too many.
        """
        frame = self.socket.recv(flags, copy=False)
        frames = [frame.buffer]
        while frame.more:
            frame = self.socket.recv(copy=False)
            if len(frames) <= MAX_FRAMES:
                frames.append(frame.buffer)
        return frames

    def decode(self, frames: list[memoryview]) -> tuple[T, list[IntArray]]:
        """The message and its arrays as read-only views of the frames.

        Raises:
            MalformedError: the header is no message of the union, or the frames do not fit it.
        """
        try:
            message = self._decoder.decode(frames[0])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._dropped(f"a message of {len(frames[0])} bytes does not decode: {error}") from None
        columns = FRAME_COLUMNS.get(type(message), ())
        name = type(message).__name__
        if len(frames) != 1 + len(columns):
            raise self._dropped(f"{name} came with {len(frames) - 1} array frames instead of {len(columns)}")
        for index, width in enumerate(columns, start=1):
            if len(frames[index]) % (4 * width):
                size = len(frames[index])
                raise self._dropped(f"frame {index} of {name} has {size} bytes, which is not rows of {width} int32")
        return message, [np.frombuffer(frame, dtype=np.int32) for frame in frames[1:]]

    def _dropped(self, reason: str) -> MalformedError:
        self.malformed += 1
        self.last_error = MalformedError(reason)
        return self.last_error
