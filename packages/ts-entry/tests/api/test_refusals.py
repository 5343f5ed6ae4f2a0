"""What is not built, out of range or malformed is refused by name, in OpenAI's shape, and never reaches the engine."""

import json

import pytest
from ts_entry.api.errors import InvalidRequestError
from ts_entry.api.limits import Limits

MESSAGES = [{"role": "user", "content": "Hello"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}

REFUSED = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": 0}, "logprobs"),
    ({"n": True}, "n"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"min_p": 0.1}, "min_p"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"store": True}, "store"),
    ({"echo": True}, "echo"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"chat_template": "x"}, "chat_template"),
    ({"temprature": 1}, "temprature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"seed": 2**63}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"stop_token_ids": [10**7]}, "stop_token_ids"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"priority": 1001}, "priority"),
    ({"top_k": 2**40}, "top_k"),
    ({"user": "x" * 257}, "user"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
    ({"messages": []}, "messages"),
    ({"messages": MESSAGES * 33}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": "x", "reasoning": "y"}]}, "messages[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]}, "messages[0].content[0].y"),
    ({"messages": [{"role": "user", "content": "forbidden"}]}, "messages"),
    ({"tools": [FUNCTION] * 9}, "tools"),
    ({"tools": [{"type": "custom"}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools[0].function.strict"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"chat_template_kwargs": {"thinkin": False}}, "chat_template_kwargs.thinkin"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": {"thinking": True}, "thinking": {"type": "disabled"}}, "thinking"),
    ({"reasoning_effort": "minimal"}, "reasoning_effort"),
    ({"reasoning_effort": "high", "thinking": {"type": "disabled"}}, "reasoning_effort"),
    ({"chat_template_kwargs": {"thinking": "no"}}, "chat_template_kwargs.thinking"),
]

ACCEPTED = {
    "n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
    "response_format": {"type": "text"}, "store": False, "user": "me", "metadata": {"a": "b"}, "service_tier": "auto",
    "priority": 0, "min_p": 0, "repetition_penalty": 1.0, "prompt_cache_key": "k", "modalities": ["text"], "tools": [],
    "stop": None, "seed": None, "max_tokens": None, "stream": False, "parallel_tool_calls": True, "tool_choice": None,
    "reasoning_effort": "medium", "chat_template_kwargs": {"thinking": None},
}  # fmt: skip


def post(bench, **fields):
    return bench.http.post("/v1/chat/completions", json={"model": "kimi-k2.5", "messages": MESSAGES, **fields})


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_fields_that_would_be_ignored_are_refused_by_name(run_bench, make_reply):
    async def scenario(bench):
        for fields, param in REFUSED:
            response = await post(bench, **fields)
            assert response.status_code == 400, (fields, response.text)
            error = error_of(response)
            assert error["param"] == param, (fields, error)
            assert error["type"] == "invalid_request_error"
            assert len(error["message"]) > 20
        assert bench.scheduler.submits == []

    run_bench(scenario, make_reply([65]), limits=Limits(messages=32, tools=8))


def test_neutral_and_harmless_fields_are_accepted(run_bench, make_reply):
    async def scenario(bench):
        response = await post(bench, **ACCEPTED)
        assert response.status_code == 200, response.text

    run_bench(scenario, make_reply([65]))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": "kimi-k2.5"}', b"\xff", b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"']
)
def test_bodies_that_are_no_requests(run_bench, make_reply, body):
    async def scenario(bench):
        for path in ("/v1/chat/completions", "/v1/completions"):
            response = await bench.http.post(path, content=body)
            assert response.status_code == 400
            error_of(response)

    run_bench(scenario, make_reply([65]))


def test_missing_fields_are_named(run_bench, make_reply):
    async def scenario(bench):
        response = await bench.http.post("/v1/chat/completions", json={"messages": MESSAGES})
        assert error_of(response)["param"] == "model"
        assert error_of(response)["code"] == "missing_required_parameter"

    run_bench(scenario, make_reply([65]))


def test_large_bodies(run_bench, make_reply):
    async def chunks():
        for _ in range(20):
            yield b" " * 1000

    async def scenario(bench):
        assert (await post(bench, user="x" * 20_000)).status_code == 413
        response = await bench.http.post("/v1/chat/completions", content=chunks())
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
        assert (await post(bench)).status_code == 200

    run_bench(scenario, make_reply([65]), limits=Limits(body_bytes=10_000))


def test_context_overflow(run_bench, make_reply):
    async def scenario(bench):
        response = await post(bench, messages=[{"role": "user", "content": "x" * 3000}])
        error = error_of(response)
        assert response.status_code == 400
        assert error["code"] == "context_length_exceeded"
        assert "2048" in error["message"]
        assert bench.scheduler.submits == []

    run_bench(scenario, make_reply([65]))


def test_paths_methods_and_models(run_bench, make_reply):
    async def scenario(bench):
        response = await bench.http.get("/v1/nothing")
        assert response.status_code == 404
        assert "/v1/chat/completions" in error_of(response)["message"]
        response = await bench.http.get("/v1/chat/completions")
        assert response.status_code == 405
        assert "POST" in response.headers["allow"]
        error_of(response)
        response = await post(bench, model="gpt-5")
        assert response.status_code == 404
        error = error_of(response)
        assert error["code"] == "model_not_found"
        assert "'kimi-k2.5-mini', 'kimi-k2.5'" in error["message"]
        assert (await bench.http.get("/v1/models/gpt-5")).status_code == 404

    run_bench(scenario, make_reply([65]))


def test_api_keys(run_bench, make_reply):
    async def scenario(bench):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic key-1"}):
            response = await bench.http.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"
        for key in ("key-1", "key-2"):
            response = await bench.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert response.status_code == 200
        assert (await bench.http.get("/health")).status_code == 200

    run_bench(scenario, make_reply([65]), api_keys=("key-1", "key-2"))


def test_a_model_without_template_refuses_chat(run_bench, make_reply, model):
    import dataclasses

    async def scenario(bench):
        response = await post(bench)
        assert response.status_code == 400
        assert "--chat-template" in error_of(response)["message"]
        response = await bench.http.post("/v1/completions", json={"model": "kimi-k2.5", "prompt": "x"})
        assert response.status_code == 200

    run_bench(scenario, make_reply([65]), served=dataclasses.replace(model, template=None))


def test_an_internal_failure_is_a_500_that_tells_nothing(run_bench, make_reply, monkeypatch, caplog):
    def explode(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr("ts_entry.api.openai.chat.read_conversation", explode)

    async def scenario(bench):
        response = await post(bench)
        assert response.status_code == 500
        assert "secret" not in json.dumps(error_of(response))

    run_bench(scenario, make_reply([65]))
    assert "secret" in caplog.text


@pytest.mark.parametrize("text", [rb"\ud800", rb"\uD83Dx", rb"\udc00", rb"\ud800\ud800"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "TEXT", "messages": []}',
        b'{"model": "kimi-k2.5", "messages": [{"role": "user", "content": "x"}], "stop": ["TEXT"]}',
        b'{"model": "kimi-k2.5", "messages": [{"role": "user", "content": "x"}], "TEXT": 1}',
    ],
    ids=["model", "stop", "field"],
)
def test_an_unpaired_surrogate_is_refused_as_what_it_is(run_bench, make_reply, body, text):
    async def scenario(bench):
        response = await bench.http.post("/v1/chat/completions", content=body.replace(b"TEXT", text))
        assert response.status_code == 400
        error = error_of(response)
        assert error["code"] == "invalid_json"
        assert "surrogate" in error["message"]

    run_bench(scenario, make_reply([65]))


def test_paired_surrogates_are_a_character(run_bench, make_reply):
    async def scenario(bench):
        body = rb'{"model": "\ud83d\ude00", "messages": [{"role": "user", "content": "x"}]}'
        response = await bench.http.post("/v1/chat/completions", content=body)
        assert response.status_code == 404
        assert "\N{GRINNING FACE}" in error_of(response)["message"]

    run_bench(scenario, make_reply([65]))


def test_an_error_text_with_a_surrogate_is_still_json():
    assert json.loads(InvalidRequestError("no '\ud800' here").encoded())["error"]["message"] == "no '?' here"
