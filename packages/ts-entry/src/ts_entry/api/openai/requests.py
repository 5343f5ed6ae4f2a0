"""Request bodies of chat and text completions: decoding and what is checked of them."""

import re
from typing import Any, Final, Literal, TypeVar

import msgspec

from ts_entry.api.errors import InvalidRequestError
from ts_entry.api.limits import Limits
from ts_entry.api.openai.fields import check_fields

_PATH = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*?)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*?)`")
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\)(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])

T = TypeVar("T", bound="SamplingFields")


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Of a streamed request."""

    include_usage: bool | None = None
    continuous_usage_stats: Literal[False] | None = None
    include_obfuscation: Literal[False] | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """What chat and text completions share; ``None`` means the default."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    cache_salt: str | None = None

    @property
    def expects_next_turn(self) -> bool:
        """Whether the prompt will probably come again, longer."""
        return False


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    """Of an assistant's tool call; ``arguments`` is JSON text, kept as it is."""

    name: str
    arguments: str = "{}"
    parsed_arguments: Any = None
    """OpenAI's client sends back its own reading of ``arguments``; the text is what counts."""


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """An assistant's tool call in the conversation."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message's content; only text is built, the others are known to be refused by their type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    video_url: Any = None
    input_audio: Any = None
    file: Any = None
    annotations: list[Any] | None = None
    cache_control: Any = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """A message of the conversation. Fields that SDKs send back empty are accepted empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None
    cache_control: Any = None
    """A hint of other providers; prefixes are cached without one."""
    parsed: Any = None
    """OpenAI's client sends back its own reading of ``content``; the text is what counts."""


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    """Moonshot's own switch for reasoning."""

    type: Literal["enabled", "disabled"]


class ChatRequest(SamplingFields, kw_only=True):
    """Body of ``/v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking: Thinking | None = None
    reasoning_effort: str | None = None

    @property
    def expects_next_turn(self) -> bool:
        """An agent's does: a tool's result follows."""
        return bool(self.tools)


class CompletionRequest(SamplingFields, kw_only=True):
    """Body of ``/v1/completions``."""

    prompt: str | list[int | str | list[int]]
    """A text, the token ids of one prompt, or a list of prompts in either form."""


_ENDPOINTS: Final = {ChatRequest: "/v1/chat/completions", CompletionRequest: "/v1/completions"}


def decode_request(body: bytes, kind: type[T], limits: Limits) -> T:
    """The body as a request in which every field has its type and nothing would be ignored.

    Raises:
        InvalidRequestError: it is no such request; ``param`` names the field.
    """
    try:
        raw = _RAW.decode(body)
        check_fields(raw, kind.__struct_fields__, endpoint=_ENDPOINTS[kind])
        request = msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(error, body) from None
    check_sampling(request, limits)
    return request


def check_sampling(request: SamplingFields, limits: Limits) -> None:
    """Ranges of the shared fields."""
    _in_range("temperature", request.temperature, 0.0, 2.0)
    _in_range("top_p", request.top_p, 0.0, 1.0)
    if request.top_p == 0:
        raise InvalidRequestError("'top_p' is 0, which leaves no token: send temperature 0 for greedy.", param="top_p")
    _in_range("top_k", request.top_k, -1, 2**31 - 1)
    _in_range("seed", request.seed, -(2**63), 2**63 - 1)
    _in_range("max_tokens", request.max_tokens, 1, None)
    _in_range("priority", request.priority, -1000, 1000)
    for name in ("user", "safety_identifier", "cache_salt"):
        if len(getattr(request, name) or "") > limits.label_characters:
            raise InvalidRequestError(
                f"'{name}' has more than {limits.label_characters} characters; send fewer.", param=name
            )
    stops = stop_strings(request)
    if len(stops) > limits.stops:
        raise InvalidRequestError(f"'stop' has {len(stops)} strings; at most {limits.stops} are taken.", param="stop")
    for stop in stops:
        if not 0 < len(stop) <= limits.stop_characters:
            raise InvalidRequestError(
                f"'stop' has a string of {len(stop)} characters; send 1 to {limits.stop_characters}.", param="stop"
            )
    if len(request.stop_token_ids or ()) > limits.stop_token_ids:
        raise InvalidRequestError(
            f"'stop_token_ids' has more than {limits.stop_token_ids} ids; send fewer.", param="stop_token_ids"
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("'stream_options' needs 'stream': true; leave it out.", param="stream_options")


def stop_strings(request: SamplingFields) -> list[str]:
    """``stop`` as a list."""
    stop = request.stop
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


def _in_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is None or (low <= value and (high is None or value <= high)):
        return
    bounds = f"at least {_plain(low)}" if high is None else f"between {_plain(low)} and {_plain(high)}"
    raise InvalidRequestError(f"'{name}' is {value}; it has to be {bounds}.", param=name, code="invalid_value")


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _invalid(error: Exception, body: bytes) -> InvalidRequestError:
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        reason = "nested too deep" if isinstance(error, RecursionError) else text
        if _LONE_SURROGATE.search(body):
            reason = "a surrogate (\\ud800 to \\udfff) without its pair is no character; leave it out"
        return InvalidRequestError(f"The request body is not valid JSON: {reason}.", code="invalid_json")
    path = _PATH.search(text)
    param = path["path"] if path else None
    what = text[: path.start()] if path else text
    if unknown := _UNKNOWN.search(what):
        field = f"{param}.{unknown['field']}" if param else unknown["field"]
        return InvalidRequestError(
            f"Unrecognized request field '{field}': leave it out.", param=field, code="unknown_parameter"
        )
    if missing := _MISSING.search(what):
        param = f"{param}.{missing['field']}" if param else missing["field"]
        return InvalidRequestError(
            f"'{param}' is required and missing.", param=param, code="missing_required_parameter"
        )
    where = f"'{param}': " if param else ""
    return InvalidRequestError(f"Invalid request: {where}{what}.", param=param, code="invalid_type")
