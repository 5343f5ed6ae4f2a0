"""Reading a request's events up to its end, for streamed and complete responses alike."""

import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol

from ts_protocol.messages import TokenOutput

from ts_entry.api.errors import ApiError, InternalServerError, api_error
from ts_entry.api.http import ClientDisconnectedError
from ts_entry.api.openai.sse import KEEP_ALIVE, EventStream
from ts_entry.engine.errors import EngineError
from ts_entry.engine.mailbox import Mailbox, output_of

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 0.5
"""How long a stream's status waits for the first event, so that a full queue is answered with 429 and not with 200."""
KEEP_ALIVE_SECONDS: Final = 15.0


async def outputs(
    mailbox: Mailbox, stream: EventStream | None = None, *, param: str
) -> AsyncIterator[list[TokenOutput]]:
    """Batches of outputs. While there is none yet, ``stream`` is started and kept alive.

    ``param`` is the field that held the prompt.

    Raises:
        ClientDisconnectedError: the client hung up.
        ApiError: the request was rejected, or the engine went down.
    """
    waiting = None if stream is None else GRACE_SECONDS
    while True:
        events = await mailbox.take(waiting)
        if not events:
            assert stream is not None
            await stream.write(KEEP_ALIVE)
            waiting = KEEP_ALIVE_SECONDS
            continue
        waiting = None
        batch = []
        for event in events:
            try:
                output = output_of(event)
            except EngineError as error:
                raise api_error(error, param=param) from None
            if output is None:
                raise ClientDisconnectedError
            batch.append(output)
        yield batch


class Streamed(Protocol):
    """A streamed response that can run."""

    async def run(self) -> None:
        """Send everything."""


async def run_stream(streamed: Streamed, stream: EventStream) -> None:
    """Run it; an error after the start becomes an error event, before it the status of the response."""
    try:
        await streamed.run()
    except ClientDisconnectedError:
        raise
    except Exception as error:
        if not stream.started:
            raise
        await stream.fail(_told(error))


def _told(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    logger.exception("a stream failed", exc_info=error)
    return InternalServerError()
