"""Logits that allow no token, from the worker's result to the client of that one request."""

import asyncio

import msgspec
import numpy as np
from ts_entry.engine import EngineClient, RequestFailedError
from ts_protocol.messages import (
    ROW_SAMPLE,
    UNUSABLE,
    Abort,
    KvCapacity,
    SamplingParams,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
)
from ts_protocol.wire import IntArray, slots_of
from ts_scheduler.requests import Engine

KV = KvCapacity(page_size=4, num_pages=64, max_num_seqs=8, max_model_len=64, vocab_size=100)
BROKEN = 66


class Loop:
    """The scheduler on the other side of the entry's channel, and a worker that adds one to the last prompt token,
    or finds no token after ``BROKEN``."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._engine = Engine(KV, chunk_tokens=64, max_queued=8, prefix_caching=True)
        self._last: dict[int, int] = {}

    def send(self, message: msgspec.Struct, *arrays: IntArray) -> None:
        if isinstance(message, Submit):
            assert self._engine.submit(message, arrays[0]) is None
        elif isinstance(message, Abort):
            self._engine.abort(message)

    def close(self) -> None:
        pass

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            frames = self._engine.plan()
            if frames is not None:
                plan = msgspec.msgpack.decode(frames[0], type=StepPlan)
                rows, tokens = (np.frombuffer(frame, np.int32) for frame in frames[1:3])
                sampled = self._tokens(slots_of(plan.decodes).tolist(), rows.reshape(-1, 4), tokens)
                batch, failed = self._engine.settle(StepResult(plan.step), sampled)
                if batch:
                    self._client.on_message(msgspec.msgpack.decode(batch, type=TokenBatch), [])
                for answer in failed:
                    self._client.on_message(answer, [])

    def _tokens(self, decodes: list[int], prompts: IntArray, tokens: IntArray) -> IntArray:
        fed = 0
        for slot, _, count, flags in prompts.tolist():
            assert flags == ROW_SAMPLE
            fed += count
            self._last[slot] = int(tokens[fed - 1])
        slots = decodes + prompts[:, 0].tolist()
        for slot in slots:
            self._last[slot] = UNUSABLE if self._last[slot] == BROKEN else self._last[slot] + 1
        return np.array([self._last[slot] for slot in slots], np.int32)


async def answer(client: EngineClient, prompt: list[int]) -> list[int]:
    got: list[int] = []
    async for output in client.generate(
        np.array(prompt, np.int32), sampling=SamplingParams(), max_tokens=6, stop_token_ids=()
    ):
        got += output.tokens
    return got


def test_only_the_request_without_a_token_fails() -> None:
    async def scenario() -> None:
        client = EngineClient()
        loop = Loop(client)
        client.attach(loop, capacity=KV)
        running = asyncio.ensure_future(loop.run())
        asked = [answer(client, prompt) for prompt in ([1, 2, 3], [5, BROKEN - 3], [9])]
        first, broken, last = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, last) == ([4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15])
        assert isinstance(broken, RequestFailedError)
        assert await answer(client, [20]) == [21, 22, 23, 24, 25, 26]
        assert client.in_flight == 0
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))
