"""A chat request's messages and tools, checked and in the form that templates take."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from ts_entry.api.errors import InvalidRequestError
from ts_entry.api.limits import Limits
from ts_entry.api.openai.fields import short
from ts_entry.api.openai.requests import ChatRequest, Message, Part
from ts_entry.chat.prompts import ForcedCall

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_THINK: Final = re.compile(r"\s*<think>(?P<reasoning>.*?)</think>(?P<content>.*)", re.DOTALL)
_EFFORTS: Final = {"none": False, "low": True, "high": True}
"""``reasoning_effort`` to whether the model reasons. Effort is a hint, and the model has one way to reason."""
ToolMode = Literal["auto", "none"] | ForcedCall


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What goes into the template, and what the answer may be."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    variables: dict[str, Any]
    mode: ToolMode
    """``none`` also without tools: the answer then ends where a tool call would begin."""


def read_conversation(request: ChatRequest, limits: Limits, *, variables: frozenset[str]) -> Conversation:
    """Check messages, tools and template variables.

    ``variables`` are those that the model's template knows.

    Raises:
        InvalidRequestError: something is wrong; ``param`` names it.
    """
    if not request.messages:
        raise InvalidRequestError("'messages' is empty; send at least one message.", param="messages")
    if len(request.messages) > limits.messages:
        raise InvalidRequestError(
            f"'messages' has {len(request.messages)} messages; at most {limits.messages} are taken.", param="messages"
        )
    messages = [_message(message, f"messages[{index}]") for index, message in enumerate(request.messages)]
    tools = _tools(request.tools, limits)
    calls = sum(len(message.get("tool_calls", ())) for message in messages)
    mode = _tool_mode(request.tool_choice, tools, calls)
    chosen = _variables(request, variables)
    if isinstance(mode, ForcedCall) and "thinking" in variables:
        chosen["thinking"] = False  # the answer begins with the call
    return Conversation(messages=messages, tools=tools, variables=chosen, mode=mode)


def _message(message: Message, where: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": _content(message, where)}
    if message.name is not None:
        result["name"] = message.name
    if message.annotations:
        raise InvalidRequestError(
            f"'{where}.annotations' is not supported: leave it out.", param=f"{where}.annotations"
        )
    if role == "assistant":
        _add_assistant_parts(result, message)
    elif message.tool_calls or message.reasoning or message.reasoning_content:
        raise InvalidRequestError(f"'{where}': only an assistant's message has tool calls or reasoning.", param=where)
    if role == "tool":
        if message.tool_call_id is None:
            param = f"{where}.tool_call_id"
            raise InvalidRequestError(f"'{param}' is required in a tool's message.", param=param)
        result["tool_call_id"] = message.tool_call_id
    return result


def _add_assistant_parts(result: dict[str, Any], message: Message) -> None:
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    content = result["content"]
    if reasoning is None and isinstance(content, str) and (match := _THINK.fullmatch(content)):
        reasoning, result["content"] = match["reasoning"], match["content"]
    if reasoning is not None:
        result["reasoning_content"] = reasoning
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]


def _content(message: Message, where: str) -> str | list[dict[str, Any]]:
    if message.content is None:
        if message.role != "assistant":
            raise InvalidRequestError(
                f"'{where}.content' is required for role '{message.role}'.", param=f"{where}.content"
            )
        return ""
    if isinstance(message.content, str):
        return message.content
    return [_part(part, f"{where}.content[{index}]") for index, part in enumerate(message.content)]


def _part(part: Part, where: str) -> dict[str, Any]:
    if part.type != "text":
        raise InvalidRequestError(
            f'\'{where}.type\' is {short(part.type)}: this server reads text parts only; send {{"type": "text"}}.',
            param=f"{where}.type",
            code="unsupported_parameter",
        )
    if part.text is None:
        raise InvalidRequestError(f"'{where}.text' is required in a text part.", param=f"{where}.text")
    return {"type": "text", "text": part.text}


def _tools(tools: list[dict[str, Any]] | None, limits: Limits) -> list[dict[str, Any]] | None:
    if not tools:
        return None
    if len(tools) > limits.tools:
        raise InvalidRequestError(f"'tools' has {len(tools)} tools; at most {limits.tools} are taken.", param="tools")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise InvalidRequestError(
                f'\'{where}\' is not a function: send {{"type": "function", "function": {{...}}}}.', param=where
            )
        _check_function(tool["function"], f"{where}.function")
    return tools


def _check_function(function: dict[str, Any], where: str) -> None:
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"'{where}.name' is {short(name)}; send 1 to 128 letters, digits, '_', '.' or '-'.", param=f"{where}.name"
        )
    if not isinstance(function.get("parameters", {}), dict | None):
        raise InvalidRequestError(f"'{where}.parameters' has to be a JSON schema object.", param=f"{where}.parameters")
    if function.get("strict"):
        raise InvalidRequestError(
            f"'{where}.strict' true needs constrained decoding, which is not built: send false or leave it out.",
            param=f"{where}.strict",
            code="unsupported_parameter",
        )


def _tool_mode(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]] | None, calls: int) -> ToolMode:
    if choice is None:
        return "none" if tools is None else "auto"
    if choice == "none":
        return "none"
    if tools is None:
        raise InvalidRequestError("'tool_choice' needs 'tools'; send both or neither.", param="tool_choice")
    if choice == "auto":
        return "auto"
    if choice == "required":
        only = tools[0]["function"]["name"] if len(tools) == 1 else None
        return ForcedCall(name=only, index=calls)
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in [tool["function"]["name"] for tool in tools]:
        raise InvalidRequestError(
            f'\'tool_choice\' is {short(choice)}; send "auto", "none", "required" or '
            '{"type": "function", "function": {"name": ...}} with the name of one of the tools.',
            param="tool_choice",
        )
    return ForcedCall(name=name, index=calls)


def _variables(request: ChatRequest, known: frozenset[str]) -> dict[str, Any]:
    """Template variables; ``thinking`` may come in three ways, which have to agree."""
    chosen = {name: value for name, value in (request.chat_template_kwargs or {}).items() if value is not None}
    for name in chosen:
        if name not in known:
            raise InvalidRequestError(
                f"'chat_template_kwargs.{name}' is no variable of this model's template, which knows "
                f"{', '.join(sorted(known)) or 'none'}; leave it out.",
                param=f"chat_template_kwargs.{name}",
                code="unknown_parameter",
            )
    if not isinstance(chosen.get("thinking", True), bool):
        raise InvalidRequestError(
            f"'chat_template_kwargs.thinking' is {short(chosen['thinking'])}; send true or false.",
            param="chat_template_kwargs.thinking",
            code="invalid_type",
        )
    for param, thinking in _thinking_wishes(request):
        if "thinking" not in known:
            raise InvalidRequestError(f"'{param}': this model's template has no switch for it.", param=param)
        if chosen.setdefault("thinking", thinking) != thinking:
            raise InvalidRequestError(f"'{param}' contradicts another field about thinking; send one.", param=param)
    return chosen


def _thinking_wishes(request: ChatRequest) -> list[tuple[str, bool]]:
    """``reasoning_effort`` ``"medium"`` is OpenAI's default, which clients spell out: it wishes for nothing."""
    wishes = []
    if request.thinking is not None:
        wishes.append(("thinking", request.thinking.type == "enabled"))
    effort = request.reasoning_effort
    if effort not in (None, "medium"):
        if effort not in _EFFORTS:
            raise InvalidRequestError(
                f"'reasoning_effort' is {short(effort)}: this model reasons or does not; send \"none\" to switch "
                'reasoning off, "low", "medium" or "high" to have it on, or leave it out.',
                param="reasoning_effort",
                code="unsupported_parameter",
            )
        wishes.append(("reasoning_effort", _EFFORTS[effort]))
    return wishes
