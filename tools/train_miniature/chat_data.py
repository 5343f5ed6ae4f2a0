"""Mixes the kinds of chat turns into whole conversations, rendered in the real format."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from .chat_code import answer, ask, pieces
from .chat_format import render
from .chat_tasks import talk_turn, task_turn
from .chat_tools import declare, make_tools, tool_turn
from .data import SourceFile

_SYSTEM = [
    "You are a helpful assistant.",
    "You are Kimi, an AI assistant created by Moonshot AI.",
    "You are a coding assistant.",
    "You are an expert Python programmer.",
    "Answer briefly.",
    "You are a helpful coding agent. Use the tools when they help.",
]


def _system(rng: random.Random) -> list[dict[str, Any]]:
    return [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.25 else []


def _plain(rng: random.Random, *, thinking: bool) -> list[dict[str, Any]]:
    return talk_turn(rng, thinking=thinking) if rng.random() < 0.12 else task_turn(rng, thinking=thinking)


def task_conversation(rng: random.Random) -> str:
    """Return one to three short requests; tools are sometimes declared and not needed."""
    thinking = rng.random() < 0.6
    messages = _system(rng)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        messages += _plain(rng, thinking=thinking)
    tools = declare(rng, make_tools(rng)) if rng.random() < 0.15 else None
    return render(messages, tools=tools)


def tool_conversation(rng: random.Random) -> str:
    """Return a conversation in which tools are called."""
    thinking = rng.random() < 0.6
    tools = make_tools(rng)
    messages = _system(rng)
    for _ in range(rng.choice([1, 1, 1, 2])):
        if messages and messages[-1]["role"] == "assistant" and messages[-1].get("tool_calls"):
            break
        done = sum(len(m.get("tool_calls", ())) for m in messages)
        messages += tool_turn(rng, tools, thinking=thinking, first_index=done)
    if messages[-1].get("tool_calls") is None and rng.random() < 0.1:
        messages += _plain(rng, thinking=thinking)
    return render(messages, tools=declare(rng, tools))


def code_conversations(files: Iterable[SourceFile], rng: random.Random) -> list[str]:
    """Return one conversation for each documented function of the library, some followed by a second."""
    found = [piece for file in files for piece in pieces(file, rng)]
    rng.shuffle(found)
    out = []
    while found:
        thinking = rng.random() < 0.6
        messages = _system(rng)
        for _ in range(rng.choice([1, 1, 1, 1, 2])):
            if found:
                piece = found.pop()
                messages += [ask(piece, rng), answer(piece, rng, thinking=thinking)]
        out.append(render(messages))
    return out


def conversations(files: Iterable[SourceFile], *, tasks: int = 7000, tools: int = 12000, seed: int = 5) -> list[str]:
    """Return all training conversations, shuffled; ``files`` must be training files only."""
    rng = random.Random(seed)
    out = code_conversations(files, rng)
    out += [task_conversation(rng) for _ in range(tasks)]
    out += [tool_conversation(rng) for _ in range(tools)]
    rng.shuffle(out)
    return out
