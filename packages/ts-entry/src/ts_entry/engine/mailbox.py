"""Where a request's events wait for the task that answers it: a list and one waiter, cheaper than a queue per token."""

import asyncio

import msgspec
from ts_protocol.messages import Rejected, RequestFailed, TokenOutput

from ts_entry.engine.errors import EngineUnavailableError, RequestFailedError, RequestRejectedError


class EngineLost(msgspec.Struct, frozen=True):
    """The engine went down with the request in flight."""

    reason: str


class ClientGone(msgspec.Struct, frozen=True):
    """The client hung up."""


MailEvent = TokenOutput | Rejected | RequestFailed | EngineLost | ClientGone


class Mailbox:
    """Events of one or several requests for one reader, on one event loop."""

    __slots__ = ("_events", "_waiter")

    def __init__(self) -> None:
        self._events: list[MailEvent] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: MailEvent) -> None:
        """Add an event and wake the reader."""
        self._events.append(event)
        self._wake()

    async def take(self, timeout: float | None = None) -> list[MailEvent]:
        """All events since the last call, at least one; none only when ``timeout`` seconds have passed."""
        if not self._events:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        events = self._events
        self._events = []
        return events

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def output_of(event: MailEvent) -> TokenOutput | None:
    """The event's tokens; ``None`` when the client is gone.

    Raises:
        RequestRejectedError: the scheduler did not take the request.
        RequestFailedError: the engine could not go on with it.
        EngineUnavailableError: the engine went down.
    """
    if isinstance(event, TokenOutput):
        return event
    if isinstance(event, Rejected):
        raise RequestRejectedError(event.code, event.message)
    if isinstance(event, RequestFailed):
        raise RequestFailedError(event.message)
    if isinstance(event, EngineLost):
        raise EngineUnavailableError(event.reason)
    return None
