"""Cache groups from the workers' hellos to the plans."""

from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from ts_protocol.errors import HandshakeError
from ts_protocol.messages import CacheGroup, KvCapacity, SamplingParams, StepPlan, StepResult, Submit
from ts_scheduler import CacheGroup as CoreGroup
from ts_scheduler import Config, Scheduler, least_pages
from ts_scheduler.errors import ConfigError
from ts_scheduler.handshakes import common_capacity
from ts_scheduler.requests import Engine

WINDOW = CacheGroup("window", 36, window=6)
STATE = CacheGroup("state", 12, checkpoint_blocks=2)
KV = KvCapacity(2, 32, 4, 32, 50, (WINDOW, STATE))
LIMITS: dict[str, Any] = {"chunk_tokens": 8, "max_queued": 4}


def run(engine: Engine, prompt: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """One request of one token; the rows of all its pages frames, and of its states frames."""
    assert engine.submit(Submit(len(prompt), 1, (), SamplingParams()), np.array(prompt, np.int32)) is None
    pages: list[list[int]] = []
    states: list[list[int]] = []
    while (frames := engine.plan()) is not None:
        plan = msgspec.msgpack.decode(frames[0], type=StepPlan)
        rows, _, page_frame, state_frame = (np.frombuffer(frame, np.int32) for frame in frames[1:])
        pages += page_frame.reshape(-1, 4).tolist()
        states += state_frame.reshape(-1, 5).tolist()
        sampled = np.full(int((rows.reshape(-1, 4)[:, 3] & 1).sum()), 9, np.int32)
        engine.settle(StepResult(plan.step), sampled)
    return pages, states


def test_the_workers_groups_reach_the_plans() -> None:
    engine = Engine(KV, **LIMITS)
    pages, states = run(engine, [1] * 14)
    assert [(group, block) for _, group, block, _ in pages if group != 1] == [
        *((0, block) for block in range(4)), (2, 0), *((0, block) for block in range(4, 7)),
    ]  # fmt: skip
    assert [block for _, group, block, _ in pages if group == 1] == list(range(7))
    assert sorted((group, position, save) for _, group, _, position, save in states) == [
        (2, 4, 1),
        (2, 8, 1),
        (2, 12, 1),
    ]
    pages, states = run(engine, [1] * 15)
    assert [(group, block) for _, group, block, _ in pages] == [
        *((0, block) for block in range(8)), *((1, block) for block in range(3, 8)), (2, 0),
    ]  # fmt: skip
    assert [(position, save) for *_, position, save in states if not save] == [(12, 0)]


def test_groups_that_could_run_out_are_refused_with_what_would_do() -> None:
    least = least_pages(Config(page_size=2, num_pages=32, max_num_seqs=4, max_model_len=32, vocab_size=50, **LIMITS),
                        CoreGroup(kind="window", num_pages=1, window=6))  # fmt: skip
    few = replace(KV, groups=(replace(WINDOW, num_pages=least - 1),))
    with pytest.raises(ConfigError, match=rf"groups\[0\]\.num_pages is {least - 1}; .* at least {least}"):
        Engine(few, **LIMITS)
    Engine(replace(KV, groups=(replace(WINDOW, num_pages=least),)), **LIMITS)


def test_workers_agree_on_groups_and_the_smallest_pool_counts() -> None:
    smaller = replace(KV, groups=(replace(WINDOW, num_pages=40), replace(STATE, num_pages=11)))
    assert common_capacity([KV, smaller]).groups == (WINDOW, replace(STATE, num_pages=11))
    for groups in ((WINDOW,), (STATE, WINDOW), (replace(WINDOW, window=7), STATE)):
        with pytest.raises(HandshakeError, match="workers differ in groups"):
            common_capacity([KV, replace(KV, groups=groups)])


def test_a_kind_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='kind is "ring"; it is "window" or "state"'):
        CoreGroup(kind="ring", num_pages=4)  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(("ring", 4)), type=CacheGroup)


def test_a_plan_without_groups_has_no_states() -> None:
    scheduler = Scheduler(
        Config(page_size=2, num_pages=32, max_num_seqs=4, max_model_len=32, vocab_size=50, chunk_tokens=8, max_queued=4)
    )
    assert scheduler.submit(1, np.arange(5, dtype=np.int32), 2) is None
    plan = scheduler.plan()
    assert plan is not None
    assert plan.states.shape == (0, 5)
    assert plan.pages[:, 1:3].tolist() == [[0, 0], [0, 1], [0, 2]]
    assert scheduler.snapshot().groups == []
