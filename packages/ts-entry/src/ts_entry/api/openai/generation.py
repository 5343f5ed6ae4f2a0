"""From request fields to what the scheduler is asked."""

import random
from dataclasses import dataclass

from ts_protocol.messages import SamplingParams

from ts_entry.api.errors import ContextLengthError, InvalidRequestError
from ts_entry.api.model import ServedModel
from ts_entry.api.openai.requests import SamplingFields
from ts_entry.engine.client import EngineClient, Standing
from ts_entry.text.tokenizer import IntArray


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt for the scheduler."""

    prompt: IntArray
    sampling: SamplingParams
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    standing: Standing


def sampling_of(request: SamplingFields, model: ServedModel) -> SamplingParams:
    """The request's sampling, with the model's defaults; without a seed, a random one."""
    defaults = model.defaults
    top_k = defaults.top_k if request.top_k is None else request.top_k
    return SamplingParams(
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        top_k=max(0, top_k),
        seed=random.getrandbits(63) if request.seed is None else request.seed,
    )


def context_length(model: ServedModel, engine: EngineClient) -> int:
    """Tokens that prompt and answer may have together: the model's, or what the engine can hold if that is less."""
    kv = engine.capacity
    if kv is None:
        return model.max_model_len
    return min(model.max_model_len, kv.max_model_len, kv.num_pages * kv.page_size)


def make_job(
    request: SamplingFields,
    prompt: IntArray,
    *,
    model: ServedModel,
    engine: EngineClient,
    max_tokens: int | None,
    param: str,
    extra_stops: tuple[int, ...] = (),
) -> Job:
    """Fit the prompt into the context; ``max_tokens`` is cut to what remains, and is all of it when ``None``.

    Raises:
        InvalidRequestError: the prompt is empty, or a stop token id is outside of the vocabulary.
        ContextLengthError: the prompt leaves no room for an answer.
    """
    context = context_length(model, engine)
    remaining = context - len(prompt)
    if not len(prompt):
        raise InvalidRequestError(f"'{param}' is empty: send at least one token.", param=param)
    if remaining < 1:
        raise ContextLengthError(
            f"This model's maximum context length is {context} tokens. However, your {param} resulted in "
            f"{len(prompt)} tokens, which leaves none for the answer. Please reduce the length of the {param}.",
            param=param,
        )
    return Job(
        prompt=prompt,
        sampling=sampling_of(request, model),
        max_tokens=remaining if max_tokens is None else min(max_tokens, remaining),
        stop_token_ids=_stop_ids(request, model) + extra_stops,
        standing=Standing(
            priority=request.priority or 0,
            user=request.user or request.safety_identifier or "",
            session=request.expects_next_turn,
            cache_salt=request.cache_salt or "",
        ),
    )


def _stop_ids(request: SamplingFields, model: ServedModel) -> tuple[int, ...]:
    chosen = tuple(request.stop_token_ids or ())
    for token in chosen:
        if not 0 <= token < model.tokenizer.vocab_size:
            raise InvalidRequestError(
                f"'stop_token_ids' has {token}; ids are 0 to {model.tokenizer.vocab_size - 1}.", param="stop_token_ids"
            )
    eos = () if request.ignore_eos else model.eos_token_ids
    return tuple(dict.fromkeys((*eos, *chosen)))
