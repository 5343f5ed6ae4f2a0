"""``POST /v1/chat/completions``."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from ts_protocol.messages import TokenOutput

from ts_entry.api.errors import InvalidRequestError
from ts_entry.api.http import HangupWatch, read_body, send_json
from ts_entry.api.limits import Limits
from ts_entry.api.model import ServedModel
from ts_entry.api.names import check_model
from ts_entry.api.openai.answers import outputs, run_stream
from ts_entry.api.openai.conversation import Conversation, read_conversation
from ts_entry.api.openai.generation import Job, make_job
from ts_entry.api.openai.requests import ChatRequest, decode_request, stop_strings
from ts_entry.api.openai.sse import Chunks, EventStream, encode
from ts_entry.api.openai.usage import Usage, make_usage
from ts_entry.chat.events import Content, Event, Reasoning, ToolArguments, ToolStart
from ts_entry.chat.parser import AnswerParser
from ts_entry.chat.prompts import ForcedCall, Prompt, PromptBuilder
from ts_entry.chat.templates import RenderError
from ts_entry.engine.client import EngineClient
from ts_entry.engine.mailbox import Mailbox
from ts_entry.text.guard import NestingError

THREAD_BYTES: Final = 32 * 1024
"""Bodies above this are rendered and tokenized on a thread, so that running streams are not held up."""


class ChatEndpoint:
    """Answers chat requests of one model."""

    def __init__(self, engine: EngineClient, model: ServedModel, limits: Limits) -> None:
        self._engine = engine
        self._model = model
        self._limits = limits

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The endpoint."""
        body = await read_body(scope, receive, self._limits.body_bytes)
        request = decode_request(body, ChatRequest, self._limits)
        check_model(request.model, self._model)
        self._engine.check_serving()
        answer = await self._prepare(request, len(body))
        answer.submit()
        try:
            with HangupWatch(receive, answer.mailbox):
                if request.stream:
                    stream = EventStream(send)
                    await run_stream(_StreamedChat(answer, stream, request), stream)
                else:
                    await send_json(send, await _complete(answer))
        finally:
            answer.abort()

    async def _prepare(self, request: ChatRequest, size: int) -> "_Answer":
        builder = self._model.prompts
        if builder is None:
            raise InvalidRequestError(
                "This model has no chat template: use /v1/completions, or start the server with --chat-template.",
                param="messages",
            )
        conversation = read_conversation(request, self._limits, variables=builder.template.variables)
        if isinstance(conversation.mode, ForcedCall) and builder.format.tools is None:
            raise InvalidRequestError("'tool_choice': this model has no tool calls; leave it out.", param="tool_choice")
        if size > THREAD_BYTES:
            prompt = await asyncio.to_thread(_build, builder, conversation)
        else:
            prompt = _build(builder, conversation)
        job = make_job(
            request,
            prompt.ids,
            model=self._model,
            engine=self._engine,
            max_tokens=_max_tokens(request),
            param="messages",
            extra_stops=_tool_stops(request, conversation, builder),
        )
        parser = AnswerParser(
            builder.format,
            start=prompt.start,
            stops=stop_strings(request),
            tools=not (request.ignore_eos and conversation.mode == "none"),
        )
        return _Answer(engine=self._engine, job=job, parser=parser, model=self._model.name)


def _build(builder: PromptBuilder, conversation: Conversation) -> Prompt:
    forced = conversation.mode if isinstance(conversation.mode, ForcedCall) else None
    try:
        return builder.build(
            conversation.messages, tools=conversation.tools, variables=conversation.variables, forced=forced
        )
    except RenderError as error:
        raise InvalidRequestError(
            f"The model's chat template refused the messages: {error}", param="messages", code="template_error"
        ) from None
    except NestingError as error:
        raise InvalidRequestError(f"'messages' or 'tools': {error}.", param="messages") from None


def _max_tokens(request: ChatRequest) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if new is None:
        return old
    if old is not None and old != new:
        raise InvalidRequestError(
            "'max_tokens' and 'max_completion_tokens' differ; send one.", param="max_completion_tokens"
        )
    if new < 1:
        raise InvalidRequestError(
            f"'max_completion_tokens' is {new}; it has to be at least 1.", param="max_completion_tokens"
        )
    return new


def _tool_stops(request: ChatRequest, conversation: Conversation, builder: PromptBuilder) -> tuple[int, ...]:
    """Tokens that end the answer because of the tools: the start of an unwanted call, or the end of the only one.

    With ``ignore_eos`` the length is what counts: an unwanted call is text like any other.
    """
    tools = builder.format.tools
    if tools is None:
        return ()
    if conversation.mode == "none":
        return () if request.ignore_eos else (tools.section_begin, tools.call_begin)
    return (tools.call_end,) if request.parallel_tool_calls is False else ()


@dataclass(kw_only=True)
class _Answer:
    """One request on its way: what was asked, what has come."""

    engine: EngineClient
    job: Job
    parser: AnswerParser
    model: str
    identity: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    mailbox: Mailbox = field(default_factory=Mailbox)
    request_id: int = 0
    tokens: int = 0
    cached: int = 0
    finish: str | None = None

    def submit(self) -> None:
        job = self.job
        self.request_id = self.engine.submit(
            job.prompt,
            sampling=job.sampling,
            max_tokens=job.max_tokens,
            stop_token_ids=job.stop_token_ids,
            mailbox=self.mailbox,
            standing=job.standing,
        )

    def abort(self) -> None:
        self.engine.abort(self.request_id)

    def take(self, output: TokenOutput) -> list[Sequence[Event]]:
        """The events of each token of this output; sets ``finish`` at the end of the answer."""
        tokens = output.tokens
        self.cached = output.cached_tokens
        events = []
        for position, token in enumerate(tokens):
            self.tokens += 1
            last = position + 1 == len(tokens)
            if last and output.finish == "stop" and token in self.job.stop_token_ids:
                break
            events.append(self.parser.feed(token))
            if self.parser.stopped:
                self.engine.finish_early(self.request_id)
                self.finish = "stop"
                return events
        self.finish = output.finish
        return events

    @property
    def finish_reason(self) -> str:
        """As the response says it."""
        if self.finish == "stop" and self.parser.calls:
            return "tool_calls"
        return self.finish or "stop"

    def usage(self) -> Usage:
        return make_usage(
            prompt=len(self.job.prompt),
            completion=self.tokens,
            cached=self.cached,
            reasoning=self.parser.reasoning_tokens,
        )


class _StreamedChat:
    """Chunks as the tokens come."""

    def __init__(self, answer: _Answer, stream: EventStream, request: ChatRequest) -> None:
        options = request.stream_options
        self._with_usage = options is not None and bool(options.include_usage)
        self._answer = answer
        self._stream = stream
        self._chunks = Chunks(
            identity=answer.identity,
            kind="chat.completion.chunk",
            created=answer.created,
            model=answer.model,
            payload="delta",
            with_usage=self._with_usage,
        )

    async def run(self) -> None:
        """Send the answer."""
        answer, chunk = self._answer, self._chunks.chunk
        pending = [chunk(b'{"role":"assistant","content":""}')]
        pending += [chunk(_delta(event)) for event in answer.parser.begin()]
        async for batch in outputs(answer.mailbox, self._stream, param="messages"):
            for output in batch:
                for events in answer.take(output):
                    # A token without text of its own still gets its chunk: clients count them.
                    pending += [chunk(_delta(event)) for event in events] or [chunk(_EMPTY)]
                if answer.finish is not None:
                    break
            if answer.finish is not None:
                break
            await self._stream.write(b"".join(pending))
            pending.clear()
        pending += [chunk(_delta(event)) for event in answer.parser.finish(complete=answer.finish == "stop")]
        pending.append(self._chunks.finish(_EMPTY, answer.finish_reason))
        if self._with_usage:
            pending.append(self._chunks.usage(answer.usage()))
        await self._stream.close(b"".join(pending))


_EMPTY: Final = b"{}"


def _delta(event: Event) -> bytes:
    """The event as a chunk's delta."""
    if isinstance(event, Content):
        return b'{"content":' + encode(event.text) + b"}"
    if isinstance(event, Reasoning):
        text = encode(event.text)
        return b'{"reasoning":' + text + b',"reasoning_content":' + text + b"}"
    if isinstance(event, ToolStart):
        function = {"name": event.name, "arguments": ""}
        call: dict[str, Any] = {"index": event.index, "id": event.id, "type": "function", "function": function}
        return encode({"tool_calls": [call]})
    return encode({"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]})


async def _complete(answer: _Answer) -> dict[str, Any]:
    """The whole answer as a response body."""
    events = list(answer.parser.begin())
    async for batch in outputs(answer.mailbox, param="messages"):
        for output in batch:
            for more in answer.take(output):
                events += more
            if answer.finish is not None:
                break
        if answer.finish is not None:
            break
    events += answer.parser.finish(complete=answer.finish == "stop")
    choice = {"index": 0, "message": _message(events), "logprobs": None, "finish_reason": answer.finish_reason}
    return {
        "id": answer.identity,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [choice],
        "usage": answer.usage(),
    }


def _message(events: list[Event]) -> dict[str, Any]:
    content = "".join(event.text for event in events if isinstance(event, Content))
    reasoning = "".join(event.text for event in events if isinstance(event, Reasoning)) or None
    calls: list[dict[str, Any]] = []
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, ToolStart):
            arguments.append([])
            calls.append({"id": event.id, "type": "function", "function": {"name": event.name}})
        elif isinstance(event, ToolArguments):
            arguments[event.index].append(event.text)
    for call, texts in zip(calls, arguments, strict=True):
        call["function"]["arguments"] = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
    message["reasoning"] = message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message
