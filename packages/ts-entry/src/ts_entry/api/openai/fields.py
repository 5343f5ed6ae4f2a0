"""Fields of a request beyond those that are built: harmless ones, and those that only a neutral value may have."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from ts_entry.api.errors import InvalidRequestError

HARMLESS: Final = frozenset(["metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention"])
"""Labels and hints that cannot change an answer: accepted, whatever they say."""

_DEFAULT_FIX: Final = "leave it out"
_CONSTRAINED: Final = "constrained decoding is not built: leave it out and ask for the format in the prompt"

UNBUILT: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "n": ((1,), "send one request for each answer"),
    "best_of": ((1,), "leave it out"),
    "logprobs": ((False,), "log probabilities are not built: leave it out"),
    "top_logprobs": ((0,), "log probabilities are not built: leave it out"),
    "prompt_logprobs": ((), "log probabilities are not built: leave it out"),
    "presence_penalty": ((0,), "penalties are not built: send 0 or leave it out"),
    "frequency_penalty": ((0,), "penalties are not built: send 0 or leave it out"),
    "repetition_penalty": ((1,), "penalties are not built: send 1 or leave it out"),
    "length_penalty": ((1,), "penalties are not built: send 1 or leave it out"),
    "logit_bias": (({},), "token biases are not built: leave it out"),
    "min_p": ((0,), "use top_p or top_k"),
    "min_tokens": ((0,), "use ignore_eos with max_tokens for a fixed length"),
    "response_format": (({"type": "text"},), _CONSTRAINED),
    "guided_json": ((), _CONSTRAINED),
    "guided_regex": ((), _CONSTRAINED),
    "guided_choice": ((), _CONSTRAINED),
    "guided_grammar": ((), _CONSTRAINED),
    "structured_outputs": ((), _CONSTRAINED),
    "functions": (([],), "use tools"),
    "function_call": (("none",), "use tool_choice"),
    "audio": ((), _DEFAULT_FIX),
    "modalities": ((["text"],), 'this model answers with text: send ["text"] or leave it out'),
    "prediction": ((), _DEFAULT_FIX),
    "verbosity": (("medium",), "ask for it in the prompt"),
    "web_search_options": ((), "give the model a search tool"),
    "store": ((False,), "nothing is stored: send false or leave it out"),
    "echo": ((False,), "put the prompt before the answer yourself"),
    "suffix": (("",), "inserting is not built: leave it out"),
    "use_beam_search": ((False,), _DEFAULT_FIX),
    "include_stop_str_in_output": ((False,), "append the stop string yourself"),
    "skip_special_tokens": ((True,), "special tokens never show in text: leave it out"),
    "spaces_between_special_tokens": ((True,), _DEFAULT_FIX),
    "add_generation_prompt": ((True,), _DEFAULT_FIX),
    "continue_final_message": ((False,), "use /v1/completions with the rendered prompt"),
    "include_reasoning": ((True,), "drop the reasoning fields yourself"),
    "separate_reasoning": ((True,), "join reasoning and content yourself"),
    "chat_template": ((), "templates of requests are not executed: start the server with --chat-template"),
    "documents": (([],), "put the documents into a message"),
}
"""Known fields that are not built: (values that mean nothing, what to do instead). ``null`` always means nothing."""


def check_fields(raw: Mapping[str, msgspec.Raw], built: Collection[str], *, endpoint: str) -> None:
    """Refuse fields that would be ignored.

    Raises:
        InvalidRequestError: a field is unknown, or asks for what is not built.
    """
    for name in raw.keys() - HARMLESS - set(built):
        if name not in UNBUILT:
            raise InvalidRequestError(
                f"Unrecognized request field '{name}': {endpoint} does not have it; leave it out.",
                param=name,
                code="unknown_parameter",
            )
        neutral, fix = UNBUILT[name]
        value = msgspec.json.decode(raw[name])
        if value is not None and not any(_same(value, known) for known in neutral):
            raise InvalidRequestError(
                f"'{name}' is not supported with the value {short(value)}: {fix}.",
                param=name,
                code="unsupported_parameter",
            )


def _same(value: Any, known: Any) -> bool:
    """Equal, where ``0`` is not ``false``: the completions' ``logprobs: 0`` asks for the chosen tokens' values."""
    return bool(value == known) and isinstance(value, bool) == isinstance(known, bool)


def short(value: Any) -> str:
    """The value as JSON, cut to what fits a message."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
