"""``POST /v1/completions``: text or token ids, one prompt or several."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send
from ts_protocol.messages import TokenOutput

from ts_entry.api.errors import InvalidRequestError
from ts_entry.api.http import HangupWatch, read_body, send_json
from ts_entry.api.limits import Limits
from ts_entry.api.model import ServedModel
from ts_entry.api.names import check_model
from ts_entry.api.openai.answers import outputs, run_stream
from ts_entry.api.openai.generation import Job, make_job
from ts_entry.api.openai.requests import CompletionRequest, decode_request, stop_strings
from ts_entry.api.openai.sse import Chunks, EventStream, encode
from ts_entry.api.openai.usage import Usage, make_usage
from ts_entry.engine.client import EngineClient
from ts_entry.engine.mailbox import Mailbox
from ts_entry.text.detokenizer import Detokenizer, StopMatcher
from ts_entry.text.tokenizer import IntArray, Tokenizer

THREAD_CHARACTERS = 32 * 1024
"""Prompts above this are tokenized on a thread, so that running streams are not held up."""


class CompletionEndpoint:
    """Answers text completion requests of one model."""

    def __init__(self, engine: EngineClient, model: ServedModel, limits: Limits) -> None:
        self._engine = engine
        self._model = model
        self._limits = limits

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The endpoint."""
        body = await read_body(scope, receive, self._limits.body_bytes)
        request = decode_request(body, CompletionRequest, self._limits)
        check_model(request.model, self._model)
        self._engine.check_serving()
        prompts = [await self._encode(prompt) for prompt in _prompts(request, self._limits)]
        answers = _Answers(engine=self._engine, model=self._model.name, choices=self._choices(request, prompts))
        try:
            with HangupWatch(receive, answers.mailbox):
                answers.submit()
                if request.stream:
                    stream = EventStream(send)
                    await run_stream(_StreamedCompletion(answers, stream, request), stream)
                else:
                    await send_json(send, await _complete(answers))
        finally:
            answers.abort()

    def _choices(self, request: CompletionRequest, prompts: list[IntArray]) -> "list[_Choice]":
        stops = stop_strings(request)
        tokenizer = self._model.tokenizer
        return [
            _Choice(
                index=index,
                job=make_job(
                    request,
                    prompt,
                    model=self._model,
                    engine=self._engine,
                    max_tokens=request.max_tokens,
                    param="prompt",
                ),
                text=_PlainText(tokenizer, stops),
            )
            for index, prompt in enumerate(prompts)
        ]

    async def _encode(self, prompt: str | list[int]) -> IntArray:
        if isinstance(prompt, list):
            size = self._model.tokenizer.vocab_size
            if wrong := [token for token in prompt if not 0 <= token < size]:
                raise InvalidRequestError(f"'prompt' has token id {wrong[0]}; ids are 0 to {size - 1}.", param="prompt")
            return np.array(prompt, dtype=np.int32)
        if len(prompt) > THREAD_CHARACTERS:
            return await asyncio.to_thread(self._model.encoder.encode, prompt)
        return self._model.encoder.encode(prompt)


def _prompts(request: CompletionRequest, limits: Limits) -> list[str | list[int]]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    prompts = [item for item in prompt if not isinstance(item, int)]
    if ids and prompts:
        raise InvalidRequestError("'prompt' mixes token ids and prompts; send one kind.", param="prompt")
    if ids:
        return [ids]
    if not 0 < len(prompts) <= limits.prompts:
        raise InvalidRequestError(f"'prompt' has {len(prompts)} prompts; send 1 to {limits.prompts}.", param="prompt")
    return prompts


class _PlainText:
    """Tokens to text: no markers, no reasoning; hidden tokens have no text."""

    def __init__(self, tokenizer: Tokenizer, stops: list[str]) -> None:
        self._hidden = tokenizer.hidden
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopMatcher(stops) if stops else None

    @property
    def stopped(self) -> bool:
        return self._stop is not None and self._stop.matched is not None

    def feed(self, token: int) -> str:
        text = "" if token in self._hidden else self._detokenizer.feed(token)
        return text if self._stop is None else self._stop.feed(text)

    def finish(self) -> str:
        text = self._detokenizer.flush()
        return text if self._stop is None else self._stop.feed(text) + self._stop.flush()


@dataclass(kw_only=True)
class _Choice:
    """One prompt's answer on its way."""

    index: int
    job: Job
    text: _PlainText
    request_id: int = 0
    tokens: int = 0
    cached: int = 0
    finish: str | None = None

    def take(self, output: TokenOutput) -> list[str]:
        """The text of each token of this output; sets ``finish`` at the end of the answer."""
        self.cached = output.cached_tokens
        texts = []
        for position, token in enumerate(output.tokens):
            self.tokens += 1
            last = position + 1 == len(output.tokens)
            if last and output.finish == "stop" and token in self.job.stop_token_ids:
                break
            texts.append(self.text.feed(token))
            if self.text.stopped:
                self.finish = "stop"
                return texts
        self.finish = output.finish
        return texts


@dataclass(kw_only=True)
class _Answers:
    """All choices of one request, which share a mailbox."""

    engine: EngineClient
    model: str
    choices: list[_Choice]
    identity: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    mailbox: Mailbox = field(default_factory=Mailbox)
    _by_id: dict[int, _Choice] = field(default_factory=dict)

    def submit(self) -> None:
        for choice in self.choices:
            job = choice.job
            choice.request_id = self.engine.submit(
                job.prompt,
                sampling=job.sampling,
                max_tokens=job.max_tokens,
                stop_token_ids=job.stop_token_ids,
                mailbox=self.mailbox,
                standing=job.standing,
            )
            self._by_id[choice.request_id] = choice

    def abort(self) -> None:
        for request_id in self._by_id:
            self.engine.abort(request_id)

    def take(self, output: TokenOutput) -> tuple[_Choice, list[str]] | None:
        """The choice that this output belongs to, and the text of each of its tokens; ``None`` after its end."""
        choice = self._by_id[output.request_id]
        if choice.finish is not None:
            return None
        texts = choice.take(output)
        if choice.text.stopped:
            self.engine.finish_early(choice.request_id)
        return choice, texts

    @property
    def finished(self) -> bool:
        return all(choice.finish is not None for choice in self.choices)

    def usage(self) -> Usage:
        return make_usage(
            prompt=sum(len(choice.job.prompt) for choice in self.choices),
            completion=sum(choice.tokens for choice in self.choices),
            cached=sum(choice.cached for choice in self.choices),
        )


class _StreamedCompletion:
    """Chunks as the tokens come."""

    def __init__(self, answers: _Answers, stream: EventStream, request: CompletionRequest) -> None:
        options = request.stream_options
        self._with_usage = options is not None and bool(options.include_usage)
        self._answers = answers
        self._stream = stream
        self._chunks = [
            Chunks(
                identity=answers.identity,
                kind="text_completion",
                created=answers.created,
                model=answers.model,
                payload="text",
                with_usage=self._with_usage,
                index=choice.index,
            )
            for choice in answers.choices
        ]

    async def run(self) -> None:
        """Send the answers."""
        answers = self._answers
        async for batch in outputs(answers.mailbox, self._stream, param="prompt"):
            pending: list[bytes] = []
            for output in batch:
                self._add(output, pending)
            if answers.finished:
                break
            await self._stream.write(b"".join(pending))
        if self._with_usage:
            pending.append(self._chunks[0].usage(answers.usage()))
        await self._stream.close(b"".join(pending))

    def _add(self, output: TokenOutput, pending: list[bytes]) -> None:
        taken = self._answers.take(output)
        if taken is None:
            return
        choice, texts = taken
        chunks = self._chunks[choice.index]
        pending += [chunks.chunk(encode(text)) for text in texts]
        if choice.finish is not None:
            pending.append(chunks.finish(encode(choice.text.finish()), choice.finish))


async def _complete(answers: _Answers) -> dict[str, Any]:
    """The whole answer as a response body."""
    texts: list[list[str]] = [[] for _ in answers.choices]
    async for batch in outputs(answers.mailbox, param="prompt"):
        for output in batch:
            if (taken := answers.take(output)) is not None:
                texts[taken[0].index] += taken[1]
        if answers.finished:
            break
    choices = [
        {
            "index": choice.index,
            "text": "".join(texts[choice.index]) + choice.text.finish(),
            "logprobs": None,
            "finish_reason": choice.finish,
        }
        for choice in answers.choices
    ]
    return {
        "id": answers.identity,
        "object": "text_completion",
        "created": answers.created,
        "model": answers.model,
        "choices": choices,
        "usage": answers.usage(),
    }
