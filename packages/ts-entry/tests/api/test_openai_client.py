"""The official client against the server, as users drive it."""

import asyncio

import pytest

openai = pytest.importorskip("openai")

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
USER = [{"role": "user", "content": "Hello"}]


def client_of(bench, **options):
    return openai.AsyncOpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=0, **options)


@pytest.fixture
def say(make_reply, model):
    return lambda text, **options: make_reply([int(token) for token in model.encoder.encode(text)], **options)


def test_complete_and_streamed_answers(run_bench, say):
    async def scenario(bench):
        async with client_of(bench) as client:
            answer = await client.chat.completions.create(model="kimi-k2.5", messages=USER, temperature=0)
            assert answer.choices[0].message.content == "Hello world"
            assert answer.choices[0].message.reasoning_content == "hm"
            assert answer.usage.prompt_tokens_details.cached_tokens == 2
            assert answer.usage.completion_tokens_details.reasoning_tokens > 0
            stream = await client.chat.completions.create(
                model="kimi-k2.5", messages=USER, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
            assert chunks[-1].usage == answer.usage
            models = [card.id async for card in client.models.list()]
            assert models == ["kimi-k2.5-mini", "kimi-k2.5"]

    run_bench(scenario, say("hm</think>Hello world", cached=2))


def test_a_tool_turn(run_bench, say):
    async def scenario(bench):
        async with client_of(bench) as client:
            async with client.chat.completions.stream(model="kimi-k2.5", messages=USER, tools=[WEATHER]) as stream:
                async for _ in stream:
                    pass
                streamed = (await stream.get_final_completion()).choices[0]
            answer = await client.chat.completions.create(model="kimi-k2.5", messages=USER, tools=[WEATHER])
            message = answer.choices[0].message
            for got in (message, streamed.message):
                assert got.tool_calls[0].id == "functions.get_weather:0"
                assert got.tool_calls[0].function.name == "get_weather"
                assert got.tool_calls[0].function.arguments == '{"city": "Paris"}'
            assert streamed.finish_reason == answer.choices[0].finish_reason == "tool_calls"
            tool = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
            for said in (message.model_dump(), streamed.message):  # the latter with the client's parsed copies
                await client.chat.completions.create(model="kimi-k2.5", messages=[*USER, said, tool], tools=[WEATHER])
                assert CALL + '{"city": "Paris"}<|tool_call_end|>' in bench.prompt_text()
                assert "## Return of functions.get_weather:0\nsunny" in bench.prompt_text()

    run_bench(scenario, say(f'hm</think><|tool_calls_section_begin|>{CALL}{{"city": "Paris"}}<|tool_call_end|>'))


def test_text_completions(run_bench, say):
    async def scenario(bench):
        async with client_of(bench) as client:
            answer = await client.completions.create(model="kimi-k2.5", prompt=["def", "for"], max_tokens=5)
            assert [choice.text for choice in answer.choices] == ["Hello world"] * 2
            stream = await client.completions.create(model="kimi-k2.5", prompt="def", stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello world"

    run_bench(scenario, say("Hello world"))


def test_errors_are_the_clients_own_types(run_bench, make_reply):
    async def scenario(bench):
        async with client_of(bench) as client:
            create = client.chat.completions.create
            with pytest.raises(openai.NotFoundError):
                await create(model="gpt-5", messages=USER)
            with pytest.raises(openai.BadRequestError) as caught:
                await create(model="kimi-k2.5", messages=USER, n=2)
            assert caught.value.param == "n"
            stream = await create(model="kimi-k2.5", messages=USER, stream=True)
            await anext(stream)
            bench.engine.detach("worker 0 died")
            with pytest.raises(openai.APIError, match="Worker 0 died"):
                [chunk async for chunk in stream]
            with pytest.raises(openai.InternalServerError):
                await create(model="kimi-k2.5", messages=USER)

    run_bench(scenario, make_reply([65] * 500, finish="length", pause=0.01))


def test_a_full_queue_is_a_rate_limit(run_bench, make_reply):
    async def scenario(bench):
        async with client_of(bench) as client:
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(model="kimi-k2.5", messages=USER)

    run_bench(scenario, make_reply(reject=("queue_full", "full")))


def test_many_streams_at_once_do_not_mix(run_bench, make_reply, model):
    texts = [f"</think>{word} {word}" for word in ["the", "def", "return", "self", "print", "for", "in", "range"]] * 4
    replies = {f"say {index}": [int(t) for t in model.encoder.encode(text)] for index, text in enumerate(texts)}

    def reply(submit, prompt):
        text = b"".join(model.tokenizer.token_bytes[token] for token in prompt).decode()
        asked = text.split("<|im_middle|>")[1].split("<|im_end|>")[0]
        return make_reply(replies[asked], pause=0.001)

    async def scenario(bench):
        async with client_of(bench) as client:

            async def one(index):
                messages = [{"role": "user", "content": f"say {index}"}]
                stream = await client.chat.completions.create(model="kimi-k2.5", messages=messages, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            answers = await asyncio.gather(*(one(index) for index in range(len(texts))))
            assert ["</think>" + answer for answer in answers] == texts

    run_bench(scenario, reply)
