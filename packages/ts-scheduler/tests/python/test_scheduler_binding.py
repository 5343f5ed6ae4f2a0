"""What the binding takes from Python, and what it says of the rest."""

from typing import Any

import msgspec
import numpy as np
import pytest
from ts_scheduler import Config, Scheduler


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(
        Config(page_size=4, num_pages=8, max_num_seqs=2, max_model_len=32, vocab_size=10, chunk_tokens=8, max_queued=2)
    )


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ([1, 2], "prompt is a list; pass numpy.asarray"),
        ([1.9, 2.9], "prompt is a list; pass numpy.asarray"),
        (None, "prompt is a NoneType; pass numpy.asarray"),
        (np.array([1, 2]), "prompt has dtype int64; pass numpy.asarray"),
        (np.array([1, 2], np.uint32), "prompt has dtype uint32; pass numpy.asarray"),
        (np.array([1.5], np.float32), "prompt has dtype float32; pass numpy.asarray"),
        (np.array([True]), "prompt has dtype bool; pass numpy.asarray"),
    ],
)
def test_prompts_and_tokens_are_never_converted(scheduler: Scheduler, prompt: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        scheduler.submit(1, prompt, 1)
    with pytest.raises(TypeError, match=problem.replace("prompt", "tokens")):
        scheduler.settle(1, prompt)
    with pytest.raises(TypeError, match=problem.replace("prompt", "tokens")):
        scheduler.settle_frames(1, prompt)
    assert scheduler.idle()


def test_any_int32_array_of_one_dimension_is_taken(scheduler: Scheduler) -> None:
    wide = np.arange(8, dtype=np.int32)
    assert scheduler.submit(1, wide[::2], 1) is None
    unaligned = np.frombuffer(b"\0" + np.array([5, 6], np.int32).tobytes(), np.uint8)[1:].view(np.int32)
    assert scheduler.submit(2, unaligned, 1) is None
    plan = scheduler.plan()
    assert plan is not None
    assert plan.tokens.tolist() == [0, 2, 4, 6, 5, 6]
    with pytest.raises(ValueError, match="prompt has 2 dimensions; pass an int32 array of one"):
        scheduler.submit(3, wide.reshape(2, 4), 1)


def test_sampling_that_would_break_the_plan_is_refused(scheduler: Scheduler) -> None:
    prompt = np.array([1], np.int32)
    refused = scheduler.submit(1, prompt, 1, sampling=b"\x93")
    assert refused is not None
    assert (refused.code, "not one MessagePack value" in refused.message) == ("invalid", True)
    assert scheduler.submit(1, prompt, 1, sampling=msgspec.msgpack.encode([0.5, {"a": [1, None]}])) is None
    frames = scheduler.plan_frames()
    assert frames is not None
    assert msgspec.msgpack.decode(frames[0])[2] == [[0, [0.5, {"a": [1, None]}]]]
