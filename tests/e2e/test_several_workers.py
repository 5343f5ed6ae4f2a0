"""A model that several worker processes share: it answers as one does, also after one of them was killed."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

PROMPTS = ["def add(a, b):\n", "import os\nimport sys\n\n"]


def answers(server: Any) -> list[str]:
    """Greedy, all prompts at once."""
    with server.client as client:
        made = client.completions.create(model="kimi-k2.5", prompt=PROMPTS, max_tokens=24, temperature=0)
    return [choice.text for choice in made.choices]


@pytest.mark.parametrize(
    "options",
    [("--tp", "2"), pytest.param(("--tp", "4", "--ep-size", "2"), marks=pytest.mark.nightly)],
    ids=["tp 2", "tp 4, ep 2"],
)
def test_they_answer_as_one(
    server: Any, launch: Callable[..., Any], waiting: Callable[..., None], options: tuple[str, ...]
) -> None:
    want = answers(server)
    shared = launch("--kv-cache-tokens", "40000", "--max-num-seqs", "4", *options)
    assert answers(shared) == want
    workers = int(options[1])
    assert f"{workers} workers on cpu" in shared.text
    assert len(shared.children()) == workers + 1
    os.kill(shared.children()["worker 1"], signal.SIGKILL)
    shared.until("worker 1 was killed by SIGKILL")
    shared.until("serves again")
    waiting(lambda: shared.health()[0] == 200, "health")
    assert answers(shared) == want
    assert shared.end() == 0
    shared.nothing_is_left()


def test_what_does_not_divide_is_one_sentence(launch: Callable[..., Any]) -> None:
    """The miniature has four heads."""
    refused = launch("--tp", "3")
    assert refused.process.wait(90) == 1
    refused.until("the engine did not start: worker")
    assert "3" in refused.text
    assert "Traceback" not in refused.text
    refused.nothing_is_left()
