"""What happens when something goes away: the client, the engine, room in the queue."""

import asyncio
import json

import httpx
import pytest
from ts_entry.api.openai import answers
from ts_protocol.messages import RequestFailed

CHAT = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "Hello"}]}


async def until(condition):
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen within 4 s")


@pytest.fixture
def endless(make_reply):
    """Tokens for a long time."""
    return make_reply([65] * 1000, finish="length", pause=0.01)


@pytest.fixture
def silent(make_reply):
    """Never a token."""
    return make_reply([], finish=None)


@pytest.mark.parametrize("fields", [{"stream": True}, {}])
def test_a_client_that_hangs_up_aborts_the_request(run_bench, endless, fields):
    async def scenario(bench):
        with pytest.raises(httpx.ReadTimeout):
            await bench.http.post("/v1/chat/completions", json={**CHAT, **fields}, timeout=0.3)
        await until(lambda: bench.scheduler.aborts == [1])
        assert bench.engine.in_flight == 0
        assert bench.engine.metrics.finished["abort"] == 1

    async def streaming(bench):
        async with bench.http.stream("POST", "/v1/chat/completions", json={**CHAT, **fields}) as response:
            async for _ in response.aiter_lines():
                break
        await until(lambda: bench.scheduler.aborts == [1])
        assert bench.engine.in_flight == 0

    run_bench(streaming if fields else scenario, endless)


def test_all_prompts_of_a_request_are_aborted(run_bench, endless):
    async def scenario(bench):
        with pytest.raises(httpx.ReadTimeout):
            await bench.http.post("/v1/completions", json={"model": "kimi-k2.5", "prompt": ["a", "b"]}, timeout=0.3)
        await until(lambda: sorted(bench.scheduler.aborts) == [1, 2])

    run_bench(scenario, endless)


def test_an_engine_that_dies_ends_streams_with_one_error_event(run_bench, endless):
    async def scenario(bench):
        events = []
        async with bench.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    events.append(line[6:])
                if len(events) == 3:
                    bench.engine.detach("worker 0 was killed")
        assert events[-1] == "[DONE]"
        error = json.loads(events[-2])["error"]
        assert error["message"] == "Worker 0 was killed."
        assert error["code"] == "engine_unavailable"
        assert sum("error" in event for event in events) == 1
        assert bench.engine.in_flight == 0

    run_bench(scenario, endless)


def test_an_engine_that_dies_fails_whole_answers_and_comes_back(run_bench, endless):
    async def scenario(bench):
        task = asyncio.create_task(bench.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: bench.engine.in_flight == 1)
        channel, bench.engine._channel = bench.engine._channel, None
        bench.engine.detach("worker 0 was killed")
        response = await task
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "Worker 0 was killed."
        refused = await bench.http.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        health = await bench.http.get("/health")
        assert health.status_code == 503
        assert health.json()["reason"] == "worker 0 was killed"
        bench.engine.attach(channel, capacity=bench.scheduler.kv)
        assert (await bench.http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2})).status_code == 200
        assert (await bench.http.get("/health")).json()["generation"] == 2

    run_bench(scenario, endless)


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_429_with_retry_after(run_bench, make_reply, stream):
    async def scenario(bench):
        response = await bench.http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
        assert bench.engine.in_flight == 0

    run_bench(scenario, make_reply(reject=("queue_full", "64 requests wait already; try again later")))


@pytest.mark.parametrize(
    ("code", "expected"),
    [("too_long", "context_length_exceeded"), ("never_fits", "never_fits"), ("invalid", "invalid")],
)
def test_other_rejections_are_400(run_bench, make_reply, code, expected):
    async def scenario(bench):
        response = await bench.http.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == expected

    run_bench(scenario, make_reply(reject=(code, "because")))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_the_engine_gives_up_is_an_error_of_that_request_alone(run_bench, endless, stream):
    async def scenario(bench):
        body = {**CHAT, "max_tokens": 30, "stream": stream}
        requests = [asyncio.create_task(bench.http.post("/v1/chat/completions", json=body)) for _ in range(2)]
        await until(lambda: bench.engine.metrics.generation_tokens > 6)
        bench.scheduler.channel.send(RequestFailed(1, "not a number"))
        texts = [response.text for response in await asyncio.gather(*requests)]
        (failed,) = (text for text in texts if "error" in text)
        error = json.loads(failed.split("data: ")[-2] if stream else failed)["error"]
        assert error["message"] == "Not a number."
        assert (error["type"], error["code"]) == ("server_error", "generation_failed")
        assert bench.engine.metrics.finished == {"error": 1, "length": 1}

    run_bench(scenario, endless)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "param", "body"),
    [("/v1/chat/completions", "messages", CHAT), ("/v1/completions", "prompt", {"model": "kimi-k2.5", "prompt": "x"})],
)
def test_a_prompt_too_long_for_the_engine_names_its_field(run_bench, make_reply, path, param, body, stream):
    async def scenario(bench):
        response = await bench.http.post(path, json={**body, "stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param

    run_bench(scenario, make_reply(reject=("too_long", "prompt of 9 exceeds the context")))


def test_a_long_prefill_starts_the_stream_and_keeps_it_alive(run_bench, silent, monkeypatch):
    monkeypatch.setattr(answers, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(answers, "KEEP_ALIVE_SECONDS", 0.05)

    async def scenario(bench):
        lines = []
        async with bench.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                lines.append(line)
                if lines.count(": waiting") == 3 and bench.engine.in_flight:
                    bench.scheduler.send(1, [66], "length")
        assert lines.count(": waiting") >= 3
        assert lines[-2] == "data: [DONE]"

    run_bench(scenario, silent)


def test_a_bug_in_a_stream_ends_it_with_an_error_event(run_bench, endless, monkeypatch, caplog):
    async def scenario(bench):
        events = []
        async with bench.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            async for line in response.aiter_lines():
                events += [line[6:]] if line else []
                if len(events) == 3:
                    monkeypatch.setattr("ts_entry.api.openai.chat._delta", lambda event: 1 / 0)
        assert json.loads(events[-2])["error"]["code"] == "internal_error"
        assert events[-1] == "[DONE]"
        await until(lambda: bench.scheduler.aborts == [1])

    run_bench(scenario, endless)
    assert "ZeroDivisionError" in caplog.text


def test_draining_refuses_new_requests_and_finishes_the_others(run_bench, make_reply):
    async def scenario(bench):
        task = asyncio.create_task(bench.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: bench.engine.in_flight == 1)
        bench.engine.drain()
        assert not await bench.engine.wait_idle(0.01)
        assert (await bench.http.post("/v1/chat/completions", json=CHAT)).status_code == 503
        assert (await bench.http.get("/readiness")).status_code == 503
        assert (await bench.http.get("/health")).status_code == 200
        assert (await task).status_code == 200
        assert await bench.engine.wait_idle(1)

    run_bench(scenario, make_reply([65] * 20, finish="length", pause=0.02))
