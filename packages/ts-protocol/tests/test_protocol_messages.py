"""Property tests: every message survives the wire, and no bytes crash the decoder."""

from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from ts_protocol import MalformedError
from ts_protocol.messages import (
    FRAME_COLUMNS,
    ChildToSupervisor,
    EntryToScheduler,
    SchedulerToEntry,
    SchedulerToWorker,
    WorkerToScheduler,
)
from ts_protocol.wire import Wire, bitmap_of, slots_of

UNIONS = [EntryToScheduler, SchedulerToEntry, SchedulerToWorker, WorkerToScheduler, ChildToSupervisor]
MESSAGES = sorted({kind for union in UNIONS for kind in get_args(union)}, key=lambda kind: kind.__name__)


class Loopback:
    """A socket's send side that keeps what was sent."""

    def __init__(self) -> None:
        self.frames: list[memoryview] = []

    def send(self, data: Any, flags: int = 0, *, copy: bool = True) -> None:
        self.frames.append(memoryview(bytes(data)))


def wire(incoming: Any) -> tuple[Wire[Any], Loopback]:
    loopback: Any = Loopback()
    return Wire(loopback, incoming=incoming), loopback


def arrays(columns: tuple[int, ...]) -> st.SearchStrategy[list[Any]]:
    cells = st.integers(-(2**31), 2**31 - 1)
    column = lambda width: st.lists(  # noqa: E731
        st.lists(cells, min_size=width, max_size=width), max_size=5
    ).map(lambda values: np.array(values, dtype=np.int32).reshape(-1, width))
    return st.tuples(*map(column, columns)).map(list)


INTEGERS = st.integers(-(2**63), 2**63 - 1)


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type; integers within what msgpack carries, a message with every field generated."""
    simple = {
        int: INTEGERS,
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=40),
        type(None): st.none(),
    }
    if kind in simple:
        return simple[kind]
    origin, inner = get_origin(kind), get_args(kind)
    composed: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        Literal: lambda: st.sampled_from(inner),
        Union: lambda: st.one_of(*map(values, inner)),
        UnionType: lambda: st.one_of(*map(values, inner)),
        list: lambda: st.lists(values(inner[0]), max_size=4),
        tuple: lambda: st.lists(values(inner[0]), max_size=4).map(tuple),
        dict: lambda: st.dictionaries(values(inner[0]), values(inner[1]), max_size=4),
    }
    if origin in composed:
        return composed[origin]()
    return st.builds(kind, *(values(field.type) for field in msgspec.structs.fields(kind)))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_wire(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    union = next(union for union in UNIONS if kind in get_args(union))
    channel, socket = wire(union)
    for _ in range(2):  # the header's buffer is reused: a shorter message after a longer one
        message = data.draw(values(kind))
        sent = data.draw(arrays(FRAME_COLUMNS.get(kind, ())))
        socket.frames.clear()
        channel.send_frames(message, tuple(sent))
        decoded, received = channel.decode(socket.frames)
        assert decoded == message
        assert len(received) == len(sent)
        for left, right in zip(received, sent, strict=True):
            np.testing.assert_array_equal(left.reshape(right.shape), right)


@given(slots=st.sets(st.integers(0, 600)))
def test_a_bitmap_has_a_bit_for_each_slot_and_no_byte_more(slots: set[int]) -> None:
    bitmap = bitmap_of(slots)
    assert slots_of(bitmap).tolist() == sorted(slots)
    assert [i for i in range(8 * len(bitmap)) if bitmap[i // 8] >> i % 8 & 1] == sorted(slots)
    assert len(bitmap) == (max(slots) // 8 + 1 if slots else 0)


@pytest.mark.parametrize("union", UNIONS)
@settings(max_examples=150, deadline=None)
@given(frames=st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_random_bytes_never_crash_the_decoder(union: Any, frames: list[bytes]) -> None:
    channel, _ = wire(union)
    views = [memoryview(frame) for frame in frames]
    try:
        channel.decode(views)
    except MalformedError:
        assert channel.malformed == 1
    else:
        assert channel.malformed == 0


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_messages_never_crash_the_decoder(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    union = next(union for union in UNIONS if kind in get_args(union))
    header = bytearray(msgspec.msgpack.encode(data.draw(values(kind))))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(header)))
    channel, _ = wire(union)
    try:
        message, _ = channel.decode([memoryview(bytes(header[:cut]))])
    except MalformedError:
        assert channel.malformed == 1
    else:
        assert isinstance(message, get_args(union))


def test_deep_nesting_is_malformed_and_not_a_stack_overflow() -> None:
    channel, _ = wire(ChildToSupervisor)
    with pytest.raises(MalformedError):
        channel.decode([memoryview(b"\x91" * 200_000 + b"\xc0")])


def test_a_newer_peer_may_append_fields() -> None:
    channel, _ = wire(EntryToScheduler)
    message, _ = channel.decode([memoryview(msgspec.msgpack.encode(["abort", 3, "a field of the future"]))])
    assert message.request_id == 3
