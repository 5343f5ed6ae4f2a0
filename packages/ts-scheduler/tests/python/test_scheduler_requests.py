"""The core behind messages, without a process."""

import numpy as np
import pytest
from ts_protocol.messages import (
    ROW_SAMPLE,
    UNUSABLE,
    Abort,
    KvCapacity,
    Rejected,
    RequestFailed,
    SamplingParams,
    StepResult,
    Submit,
    TokenBatch,
)
from ts_protocol.wire import IntArray
from ts_scheduler import SettleError
from ts_scheduler.errors import ConfigError
from ts_scheduler.requests import Engine, PlanFrames

KV = KvCapacity(page_size=2, num_pages=32, max_num_seqs=4, max_model_len=32, vocab_size=50)


def make_engine(**changes: int) -> Engine:
    limits = {"chunk_tokens": 16, "max_queued": 4, **changes}
    return Engine(KV, chunk_tokens=limits["chunk_tokens"], max_queued=limits["max_queued"], prefix_caching=True)


def submit(engine: Engine, request_id: int, prompt: list[int], *, max_tokens: int = 4) -> object:
    message = Submit(request_id, max_tokens, (), SamplingParams())
    return engine.submit(message, np.array(prompt, dtype=np.int32))


def plan_of(engine: Engine) -> PlanFrames:
    frames = engine.plan()
    assert frames is not None
    return frames


def samples(plan: PlanFrames) -> int:
    return int(((plan[1][:, 3] & ROW_SAMPLE) != 0).sum())


def tokens(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)


def drain(engine: Engine) -> dict[int, list[int]]:
    """Run until nothing is left, each row with token 9; what each request got."""
    got: dict[int, list[int]] = {}
    while (plan := engine.plan()) is not None:
        for message in engine.settle(StepResult(plan[0].step), np.full(samples(plan), 9, np.int32)):
            assert isinstance(message, TokenBatch)
            for output in message.outputs:
                got.setdefault(output.request_id, []).extend(output.tokens)
    return got


@pytest.mark.parametrize("field", ["chunk_tokens", "max_queued"])
@pytest.mark.parametrize("value", [0, 2**31])
def test_a_limit_out_of_range_is_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=field if value == 0 else "below 2\\^31"):
        make_engine(**{field: value})


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_burst_is_refused_only_beyond_what_can_run_and_wait(in_flight: int) -> None:
    engine = make_engine(max_queued=3)
    running = 1 if in_flight else 0
    if running:
        submit(engine, 1, [3] * 5)
        assert all(engine.plan() is not None for _ in range(in_flight))
        assert engine.plan() is None, "nothing can be planned before a step has settled"
    burst = range(10, 10 + KV.max_num_seqs - running + 3)
    assert [submit(engine, request_id, [4] * 5) for request_id in burst] == [None] * len(burst)
    refused = submit(engine, 99, [4] * 5)
    assert isinstance(refused, Rejected)
    assert refused.code == "queue_full"
    engine.abort(Abort(10))
    assert submit(engine, 99, [4] * 5) is None


@pytest.mark.parametrize("ahead", [False, True], ids=["alone", "with the next step planned"])
def test_unusable_logits_end_their_request_alone(ahead: bool) -> None:
    engine = make_engine()
    for request_id in (1, 2, 3):
        assert submit(engine, request_id, [request_id] * 5) is None
    first = plan_of(engine)
    second = plan_of(engine) if ahead else None
    batch, failed = engine.settle(StepResult(first[0].step), tokens(7, UNUSABLE, 8))
    assert isinstance(batch, TokenBatch)
    assert [(output.request_id, output.tokens) for output in batch.outputs] == [(1, (7,)), (3, (8,))]
    assert isinstance(failed, RequestFailed)
    assert failed.request_id == 2
    assert engine.live_requests == [1, 3]
    if second is not None:
        (batch,) = engine.settle(StepResult(second[0].step), tokens(7, UNUSABLE, 8))
        assert isinstance(batch, TokenBatch)
        assert [output.request_id for output in batch.outputs] == [1, 3]
    assert set(drain(engine)) == {1, 3}
    assert engine.stats().pages_used == 0


def test_what_unusable_logits_came_from_is_not_reused() -> None:
    engine = make_engine()
    submit(engine, 1, [3] * 5)
    engine.settle(StepResult(plan_of(engine)[0].step), tokens(UNUSABLE))
    submit(engine, 2, [3] * 5)
    drain(engine)
    assert engine.stats().prefix_hit_tokens == 0


@pytest.mark.parametrize("values", [(UNUSABLE,), (UNUSABLE, 1, 1), (-2, 1)])
def test_a_result_that_does_not_fit_is_still_an_error(values: tuple[int, ...]) -> None:
    engine = make_engine()
    submit(engine, 1, [3] * 5)
    submit(engine, 2, [4] * 5)
    plan_of(engine)
    with pytest.raises(SettleError):
        engine.settle(StepResult(1), tokens(*values))


def test_a_result_without_a_plan_is_still_an_error() -> None:
    with pytest.raises(SettleError):
        make_engine().settle(StepResult(1), tokens(UNUSABLE))
