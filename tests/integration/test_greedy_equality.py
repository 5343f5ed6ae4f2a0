"""Greedy tokens of the real scheduler driving the real executor on the bundled miniature, against fp32 transformers.

``transformers`` reads the dequantized checkpoint. Instead of running its slow ``generate``, the test asks it for the
logits of prompt + answer at once and checks that each answered token is the argmax at its place, which by induction is
the same.
"""

import sysconfig
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts_entry.text.tokenizer import load_tokenizer
from ts_modeling import load_model
from ts_modeling.load import LoadedModel
from ts_modeling.testing import oracle, oracle_logits
from ts_protocol.messages import SamplingParams, SlotAdmit, StepPlan
from ts_runtime.devices import open_device
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import allocate
from ts_scheduler import Config, Scheduler

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "packages/ts-modeling/src/ts_modeling/miniatures/kimi_k25"
ANSWER = 64


class Engine:
    """Scheduler and executor in one process, two steps in flight, as the two processes run them."""

    def __init__(self, model: LoadedModel, *, chunk: int, tokens: int = 8192, **options: Any) -> None:
        device = open_device("cpu")
        pool, cache = allocate(model, device, requested_tokens=tokens, max_model_len=512, page_size=16, max_num_seqs=32)
        self.executor = Executor(model, cache, pool, device=device, max_num_seqs=32, chunk_tokens=chunk)
        self.scheduler = Scheduler(
            Config(
                page_size=16,
                num_pages=pool.num_pages,
                max_num_seqs=32,
                max_model_len=512,
                vocab_size=model.config.vocab_size,
                chunk_tokens=chunk,
                max_queued=64,
                **options,
            )
        )

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers of ``ANSWER`` tokens to all prompts, submitted together."""
        answers: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            assert self.scheduler.submit(index, np.array(prompt, np.int32), ANSWER) is None
            answers[index] = []
        launched: deque[tuple[int, np.ndarray]] = deque()
        while True:
            while (plan := self.scheduler.plan()) is not None:
                admits = [SlotAdmit(slot, SamplingParams()) for slot, _ in plan.admits]
                message = StepPlan(plan.step, admits, list(plan.releases))
                frames = [plan.rows.reshape(-1), plan.tokens, plan.pages.reshape(-1), plan.states.reshape(-1)]
                launched.append((plan.step, self.executor.launch(message, frames).wait()))
            if not launched:
                return list(answers.values())
            for request, token, _cached, _finish in self.scheduler.settle(*launched.popleft()):
                answers[request].append(token)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(MINIATURE, device="cpu", dtype="float32", kv_dtype="float32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Twenty stretches of standard library source, 33 to 223 tokens each."""
    source = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text()
    ids = load_tokenizer(MINIATURE).encode_ordinary(source).tolist()
    return [ids[500 * i : 500 * i + 33 + 10 * i] for i in range(20)]


@pytest.fixture(scope="module")
def alone(model: LoadedModel, prompts: list[list[int]]) -> list[list[int]]:
    """Each prompt answered by itself, nothing cached."""
    engine = Engine(model, chunk=512, prefix_caching=False)
    return [engine.generate([prompt])[0] for prompt in prompts]


def test_each_alone_equals_transformers(prompts: list[list[int]], alone: list[list[int]]) -> None:
    model = oracle(MINIATURE)
    for prompt, answer in zip(prompts, alone, strict=True):
        assert len(answer) == ANSWER
        logits = oracle_logits(model, prompt + answer[:-1])[len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == answer


@pytest.mark.parametrize("chunk", [16, 512])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_batched_together(
    model: LoadedModel, prompts: list[list[int]], alone: list[list[int]], chunk: int, prefix_caching: bool
) -> None:
    engine = Engine(model, chunk=chunk, prefix_caching=prefix_caching)
    assert engine.generate(prompts) == alone
    queries = engine.scheduler.stats().prefix_query_tokens
    assert engine.generate(prompts) == alone  # the second time on the first one's pages
    stats = engine.scheduler.stats()
    hits = stats.prefix_hit_tokens
    assert (hits > 0.8 * (stats.prefix_query_tokens - queries)) if prefix_caching else hits == 0


@pytest.mark.parametrize("chunk", [16, 512])
def test_after_preemption(model: LoadedModel, prompts: list[list[int]], alone: list[list[int]], chunk: int) -> None:
    engine = Engine(model, chunk=chunk, tokens=640, growth_room=0.0)
    assert engine.generate(prompts) == alone
    assert engine.scheduler.stats().preemptions > 0
