"""The core behind messages, without a process."""

from itertools import groupby

import msgspec
import numpy as np
import pytest
from ts_protocol.config import SchedulerConfig
from ts_protocol.messages import (
    ROW_SAMPLE,
    ROW_TOKEN_ON_DEVICE,
    UNUSABLE,
    Abort,
    KvCapacity,
    Rejected,
    RequestFailed,
    SamplingParams,
    SlotAdmit,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    TokenOutput,
)
from ts_protocol.wire import IntArray, bitmap_of, slots_of
from ts_scheduler import Config, Scheduler, SettleError
from ts_scheduler.errors import ConfigError
from ts_scheduler.requests import Engine, PlanFrames, limits_of

KV = KvCapacity(page_size=2, num_pages=32, max_num_seqs=4, max_model_len=32, vocab_size=50)


def make_engine(**changes: int) -> Engine:
    return Engine(KV, **{"chunk_tokens": 16, "max_queued": 4, "prefix_caching": True, **changes})


def submit(engine: Engine, request_id: int, prompt: list[int], *, max_tokens: int = 4) -> object:
    message = Submit(request_id, max_tokens, (), SamplingParams())
    return engine.submit(message, np.array(prompt, dtype=np.int32))


def step_of(frames: PlanFrames) -> int:
    """Which step it is, read as a worker reads it."""
    return msgspec.msgpack.decode(frames[0], type=StepPlan).step


def plan_of(engine: Engine) -> PlanFrames:
    frames = engine.plan()
    assert frames is not None
    return frames


def most(frames: PlanFrames, draft_tokens: int = 0) -> list[int]:
    """The most tokens that each sampling row can give."""
    plan = msgspec.msgpack.decode(frames[0], type=StepPlan)
    rows = np.frombuffer(frames[1], dtype=np.int32).reshape(-1, 4)
    rows = rows[(rows[:, 3] & ROW_SAMPLE) != 0]
    explicit = [int(count) for count in np.where(rows[:, 3] & ROW_TOKEN_ON_DEVICE, rows[:, 2], 1)]
    return [1 + draft_tokens] * len(slots_of(plan.decodes)) + explicit


def samples(frames: PlanFrames) -> int:
    return len(most(frames))


def settle(engine: Engine, step: int, sampled: IntArray) -> tuple[list[TokenOutput], list[RequestFailed]]:
    """What a result gave, read as the entry reads it."""
    batch, failed = engine.settle(StepResult(step), sampled)
    return msgspec.msgpack.decode(batch, type=TokenBatch).outputs if batch else [], failed


def tokens(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)


def drain(engine: Engine) -> dict[int, list[int]]:
    """Run until nothing is left, each row with token 9; what each request got."""
    got: dict[int, list[int]] = {}
    while (plan := engine.plan()) is not None:
        outputs, failed = settle(engine, step_of(plan), np.full(samples(plan), 9, np.int32))
        assert failed == []
        for output in outputs:
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
    outputs, failed = settle(engine, step_of(first), tokens(7, UNUSABLE, 8))
    assert [(output.request_id, output.tokens) for output in outputs] == [(1, (7,)), (3, (8,))]
    assert [message.request_id for message in failed] == [2]
    assert engine.live_requests == [1, 3]
    if second is not None:
        outputs, failed = settle(engine, step_of(second), tokens(7, UNUSABLE, 8))
        assert ([output.request_id for output in outputs], failed) == ([1, 3], [])
    assert set(drain(engine)) == {1, 3}
    assert engine.stats().pages_used == 0


def test_what_unusable_logits_came_from_is_not_reused() -> None:
    engine = make_engine()
    submit(engine, 1, [3] * 5)
    settle(engine, step_of(plan_of(engine)), tokens(UNUSABLE))
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


@pytest.mark.parametrize("message", [StepResult(2**64), StepResult(1, -1), StepResult(1, 2**63)])
def test_a_result_with_impossible_numbers_is_still_an_error(message: StepResult) -> None:
    engine = make_engine()
    submit(engine, 1, [3] * 5)
    plan_of(engine)
    with pytest.raises(SettleError):
        engine.settle(message, tokens(7))
    assert set(drain_from(engine, 1)) == {1}


def drain_from(engine: Engine, step: int) -> dict[int, list[int]]:
    """Settle this step, then run until nothing is left."""
    outputs, _ = settle(engine, step, tokens(9))
    got = drain(engine)
    for output in outputs:
        got.setdefault(output.request_id, []).extend(output.tokens)
    return got


def test_the_configuration_reaches_the_core() -> None:
    config = SchedulerConfig(
        entry_address="", worker_addresses=(), control_address="", fingerprint="", chunk_tokens=16, max_queued=9,
        max_queued_tokens=12, max_queued_per_user=2, min_tps=70.0,
    )  # fmt: skip
    limits = limits_of(config)
    assert (limits["min_tps"], limits["prefix_caching"]) == (70.0, True)
    engine = Engine(KV, **limits)
    prompt = tokens(1, 2, 3)
    asked = [Submit(number, 4, (), SamplingParams(), user="a" if number < 3 else "b") for number in range(6)]
    answers = [engine.submit(message, prompt) for message in asked]
    assert answers[:2] == [None, None]
    assert isinstance(answers[2], Rejected)
    assert "max_queued_per_user" in answers[2].message
    assert answers[3:5] == [None, None]
    assert isinstance(answers[5], Rejected)
    assert "max_queued_tokens" in answers[5].message or "max_queued_per_user" in answers[5].message


def test_tenants_do_not_share_prefixes_and_users_of_one_tenant_do() -> None:
    engine = make_engine()
    prompt = np.arange(9, dtype=np.int32)
    for request_id, (user, salt) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("a", "")]):
        message = Submit(request_id, 1, (), SamplingParams(), user=user, cache_salt=salt)
        assert engine.submit(message, prompt) is None
        drain(engine)
    stats = engine.stats()
    assert (stats.prefix_queries, stats.prefix_hits, stats.prefix_hit_tokens) == (4, 1, 8)


def test_accepted_drafts_reach_the_entry_as_one_output() -> None:
    engine = make_engine(draft_tokens=2)
    submit(engine, 1, [3] * 5, max_tokens=9)
    settle(engine, step_of(plan_of(engine)), tokens(7))
    frames = plan_of(engine)
    assert most(frames, 2) == [3]
    with pytest.raises(SettleError, match="row that can have 1 to 3") as refused:
        engine.settle(StepResult(2, 0, (4,)), tokens(8, 9, 10, 11))
    assert refused.value.code == "wrong_accepted"
    batch, failed = engine.settle(StepResult(2, 0, (2,)), tokens(8, 9))
    (output,) = msgspec.msgpack.decode(batch, type=TokenBatch).outputs
    assert (output.request_id, output.tokens, output.finish, failed) == (1, (8, 9), None, [])
    stats = engine.stats()
    assert (stats.decode_tokens, stats.draft_tokens, stats.accepted_draft_tokens) == (2, 2, 1)


@pytest.mark.parametrize("accepted", [(2**31,), (2**70,), (-1,)])
def test_a_report_beyond_32_bits_is_still_an_error(accepted: tuple[int, ...]) -> None:
    engine = make_engine(draft_tokens=2)
    submit(engine, 1, [3] * 5)
    plan_of(engine)
    with pytest.raises(SettleError):
        engine.settle(StepResult(1, 0, accepted), tokens(7))
    assert set(drain_from(engine, 1)) == {1}


@pytest.mark.parametrize("draft_tokens", [0, 3])
def test_encoded_plans_and_outputs_are_what_msgspec_would_have_written(draft_tokens: int) -> None:
    """Byte for byte, with numbers of every msgpack width, on two cores that see the same."""
    config = Config(
        page_size=2, num_pages=4000, max_num_seqs=300, max_model_len=2000, vocab_size=2**31 - 1, chunk_tokens=4000,
        max_queued=400, draft_tokens=draft_tokens,
    )  # fmt: skip
    plain, encoded = Scheduler(config), Scheduler(config)
    ids = [0, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32, 2**63 - 1, -1, -32, -33, -129, -40000, -(2**40)]
    ids += list(range(1000, 1250))
    sampling = {key: SamplingParams(0.5, 0.9, index, 2**index % 2**63) for index, key in enumerate(ids)}
    for index, key in enumerate(ids):
        prompt = np.full(1 + index % 7, 5, np.int32)
        for core in (plain, encoded):
            packed = msgspec.msgpack.encode(sampling[key])
            assert core.submit(key, prompt, 1 + index % 5, (), sampling=packed) is None
    rng = np.random.default_rng(0)
    steps = 0
    while not plain.idle():
        plan, frames = plain.plan(), encoded.plan_frames()
        assert plan is not None
        assert frames is not None
        admits = [SlotAdmit(slot, sampling[key]) for slot, key in plan.admits]
        usual = (plan.rows[:, 3] & ROW_TOKEN_ON_DEVICE != 0) & (plan.rows[:, 2] == 1 + draft_tokens)
        decodes = plan.rows[usual, 0].tolist()
        assert decodes == sorted(decodes)
        assert usual.tolist() == sorted(usual.tolist(), reverse=True), "they come first"
        assert frames[0] == msgspec.msgpack.encode(StepPlan(plan.step, admits, plan.releases, bitmap_of(decodes)))
        assert frames[1:] == (
            plan.rows[~usual].tobytes(),
            plan.tokens.tobytes(),
            plan.pages.tobytes(),
            plan.states.tobytes(),
        )
        accepted = [int(rng.integers(1, 1 + count)) for count in most(frames, draft_tokens)]
        sampled = (rng.integers(0, 2**31 - 1, sum(accepted)) >> rng.integers(0, 31)).astype(np.int32)
        outputs = []
        for _, own in groupby(plain.settle(plan.step, sampled, 0, accepted), key=lambda output: output[0]):
            keys, given, cached, finishes = zip(*own, strict=True)
            assert all(finish is None for finish in finishes[:-1])
            outputs.append(TokenOutput(keys[0], given, cached[0], finishes[-1]))
        batch, finished, unusable = encoded.settle_frames(plan.step, sampled, 0, accepted)
        assert batch == msgspec.msgpack.encode(TokenBatch(outputs))
        assert finished == [output.request_id for output in outputs if output.finish]
        assert unusable == []
        steps += 1
    assert steps >= 5


def test_ids_at_an_odd_address_are_taken() -> None:
    ids = np.arange(1, 12, dtype=np.int32)
    odd = np.frombuffer(b"x" + ids.tobytes(), dtype=np.int32, offset=1)
    assert not odd.flags.aligned
    core = Scheduler(
        Config(
            page_size=2, num_pages=32, max_num_seqs=4, max_model_len=32, vocab_size=50, chunk_tokens=16, max_queued=4
        )
    )
    assert core.submit(1, odd, 1) is None
    plan = core.plan()
    assert plan is not None
    assert plan.tokens.tolist() == ids.tolist()
    seven = np.frombuffer(b"x" + np.int32(7).tobytes(), dtype=np.int32, offset=1)
    assert core.settle(plan.step, seven) == [(1, 7, 0, "length")]
