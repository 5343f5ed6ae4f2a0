"""The entry's end of the channel to the scheduler, and the registry of requests in flight."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from ts_protocol.channels import AsyncChannel, Context
from ts_protocol.endpoints import CurveKeys
from ts_protocol.errors import ChannelError, HandshakeError
from ts_protocol.handshake import check_answer, hello
from ts_protocol.messages import (
    Abort,
    Heartbeat,
    KvCapacity,
    Refused,
    Rejected,
    RequestFailed,
    SamplingParams,
    SchedulerToEntry,
    Stats,
    Submit,
    TokenBatch,
    TokenOutput,
    Welcome,
)

from ts_entry.engine.errors import EngineUnavailableError
from ts_entry.engine.health import EngineState, HealthMonitor
from ts_entry.engine.mailbox import EngineLost, Mailbox, output_of
from ts_entry.engine.metrics import EngineMetrics
from ts_entry.text.tokenizer import IntArray


class Transport(Protocol):
    """What the client needs of a channel; ``AsyncChannel`` is one."""

    def send(self, message: msgspec.Struct, *arrays: IntArray) -> None:
        """Queue a message; never blocks."""

    def close(self) -> None:
        """Stop listening."""


class _Request:
    __slots__ = ("mailbox", "prompt_tokens", "submitted", "token_at")

    def __init__(self, mailbox: Mailbox, prompt_tokens: int, now: float) -> None:
        self.mailbox = mailbox
        self.prompt_tokens = prompt_tokens
        self.submitted = now
        self.token_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Whose request it is and how it stands to others: as the fields of ``ts_protocol.messages.Submit``."""

    priority: int = 0
    user: str = ""
    session: bool = False
    cache_salt: str = ""


ANYBODY: Final = Standing()


class EngineClient:
    """Submits requests, hands their tokens to mailboxes, and knows how the engine is.

    One for the life of the server; ``connect`` or ``attach`` begins a generation of the engine, ``detach`` ends it.
    Use it from the event loop's thread only.
    """

    def __init__(self) -> None:
        self.health = HealthMonitor()
        self.metrics = EngineMetrics()
        self.stats: Stats | None = None
        self.capacity: KvCapacity | None = None
        self._channel: Transport | None = None
        self._requests: dict[int, _Request] = {}
        self._ids = itertools.count(1)
        self._answer: asyncio.Future[Welcome | Refused] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    # --- life of the engine ---------------------------------------------------------------------------------------

    async def connect(
        self, context: Context, address: str, *, fingerprint: str, timeout: float = 30.0, curve: CurveKeys | None = None
    ) -> Welcome:
        """Connect to a scheduler, agree with it, and serve.

        Raises:
            HandshakeError: it refused, does not fit, or did not answer within ``timeout`` seconds.
            ChannelError: the address cannot be used.
        """
        self._answer = asyncio.get_running_loop().create_future()
        channel: AsyncChannel[Any] = AsyncChannel.connect(
            context, address, incoming=SchedulerToEntry, on_message=self.on_message, curve=curve
        )
        try:
            channel.send(hello(role="entry", fingerprint=fingerprint))
            async with asyncio.timeout(timeout):
                answer = await self._answer
            welcome = check_answer(answer, expect="scheduler", fingerprint=fingerprint)
        except TimeoutError:
            channel.close()
            raise HandshakeError(f"the scheduler did not answer within {timeout:g} s; is it running?") from None
        except BaseException:
            channel.close()
            raise
        finally:
            self._answer = None
        self.attach(channel, capacity=welcome.kv)
        return welcome

    def attach(self, channel: Transport, *, capacity: KvCapacity | None = None) -> None:
        """Serve through this channel, whose messages reach ``on_message``; the client now owns it."""
        self._drop_channel()
        self._channel = channel
        self.capacity = capacity
        self.stats = None
        self.health.restart()
        self.health.set(EngineState.SERVING)

    def detach(self, reason: str) -> None:
        """The engine is gone: fail what is in flight, refuse what comes, until the next generation is attached."""
        self._drop_channel()
        self.health.set(EngineState.DOWN, reason)
        self.fail_all(reason)

    def starting(self, reason: str) -> None:
        """Say what the engine does before it serves; ``/health`` and refused requests show it."""
        self.health.set(EngineState.STARTING, reason)

    def drain(self) -> None:
        """Take no new requests; those in flight go on."""
        self.health.set(EngineState.DRAINING, "the server is shutting down")

    async def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is in flight; False when that takes longer than ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def heartbeat(self, beat: Heartbeat) -> None:
        """The supervisor passes heartbeats on here."""
        self.health.heartbeat(beat)

    # --- requests -------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def check_serving(self) -> None:
        """Raises ``EngineUnavailableError`` unless requests are taken now."""
        if self._channel is None or self.health.state is not EngineState.SERVING:
            raise EngineUnavailableError(self.health.reason or "the engine is not connected")

    def submit(
        self,
        prompt: IntArray,
        *,
        sampling: SamplingParams,
        max_tokens: int,
        stop_token_ids: tuple[int, ...],
        mailbox: Mailbox,
        standing: Standing = ANYBODY,
    ) -> int:
        """Start a request; its events go to ``mailbox``. ``prompt`` is int32 ``[n]``, not to be changed afterwards.

        Raises:
            EngineUnavailableError: the engine does not serve.
        """
        self.check_serving()
        assert self._channel is not None
        request_id = next(self._ids)
        try:
            self._channel.send(
                Submit(
                    request_id,
                    max_tokens,
                    stop_token_ids,
                    sampling,
                    priority=standing.priority,
                    user=standing.user,
                    session=standing.session,
                    cache_salt=standing.cache_salt,
                ),
                prompt,
            )
        except ChannelError as error:
            raise EngineUnavailableError(f"the engine cannot be reached: {error}") from None
        self._requests[request_id] = _Request(mailbox, len(prompt), time.perf_counter())
        self.metrics.prompt_tokens += len(prompt)
        self._count_in_flight()
        return request_id

    def abort(self, request_id: int) -> None:
        """End a request that nobody waits for; one that has ended already is left alone."""
        if self._requests.pop(request_id, None) is None:
            return
        self.metrics.finished["abort"] += 1
        self._count_in_flight()
        self._send_abort(request_id)

    def finish_early(self, request_id: int) -> None:
        """End a request whose text is complete (a stop string was found)."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self._finished(request, "stop", time.perf_counter())
        self._send_abort(request_id)

    def fail_all(self, reason: str) -> None:
        """Every request in flight ends with this reason."""
        requests, self._requests = self._requests, {}
        for request in requests.values():
            self.metrics.finished["error"] += 1
            request.mailbox.put(EngineLost(reason))
        self._count_in_flight()

    async def generate(
        self, prompt: IntArray, *, sampling: SamplingParams, max_tokens: int, stop_token_ids: tuple[int, ...]
    ) -> AsyncIterator[TokenOutput]:
        """The outputs of one request, the last with ``finish``; leaving early aborts it.

        Raises:
            RequestRejectedError: the scheduler did not take it.
            RequestFailedError: the engine could not go on with it.
            EngineUnavailableError: the engine does not serve, or went down meanwhile.
        """
        mailbox = Mailbox()
        request_id = self.submit(
            prompt, sampling=sampling, max_tokens=max_tokens, stop_token_ids=stop_token_ids, mailbox=mailbox
        )
        try:
            while True:
                for event in await mailbox.take():
                    output = output_of(event)
                    assert output is not None
                    yield output
                    if output.finish is not None:
                        return
        finally:
            self.abort(request_id)

    # --- messages -------------------------------------------------------------------------------------------------

    def on_message(self, message: object, _: list[IntArray]) -> None:
        """A message of the scheduler."""
        if isinstance(message, TokenBatch):
            now = time.perf_counter()
            for output in message.outputs:
                self._deliver(output, now)
        elif isinstance(message, Stats):
            self.stats = message
        elif isinstance(message, Rejected | RequestFailed):
            request = self._requests.pop(message.request_id, None)
            if request is not None:
                self.metrics.finished["rejected" if isinstance(message, Rejected) else "error"] += 1
                self._count_in_flight()
                request.mailbox.put(message)
        elif isinstance(message, Welcome | Refused) and self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _deliver(self, output: TokenOutput, now: float) -> None:
        request = self._requests.get(output.request_id)
        if request is None:
            return  # aborted meanwhile
        count = len(output.tokens)
        metrics = self.metrics
        if count:
            metrics.generation_tokens += count
            if request.token_at is None:
                metrics.time_to_first_token.observe(now - request.submitted)
                metrics.cached_tokens += output.cached_tokens
            else:
                metrics.inter_token_latency.observe((now - request.token_at) / count, count)
            request.token_at = now
        if output.finish is not None:
            del self._requests[output.request_id]
            self._finished(request, output.finish, now)
        request.mailbox.put(output)

    def _finished(self, request: _Request, reason: str, now: float) -> None:
        self.metrics.finished[reason] += 1
        self.metrics.e2e_request_latency.observe(now - request.submitted)
        self._count_in_flight()

    def _count_in_flight(self) -> None:
        self.health.busy(len(self._requests))
        if self._requests:
            self._idle.clear()
        else:
            self._idle.set()

    def _send_abort(self, request_id: int) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(Abort(request_id))
        except ChannelError as error:
            self.detach(f"the engine cannot be reached: {error}")

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
