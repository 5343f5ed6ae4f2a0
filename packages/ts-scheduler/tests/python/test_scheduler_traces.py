"""Random traces against a toy language model whose next token depends on every KV entry, read through block tables.

The oracle generates each request alone, with no pages at all. A page that is wrong, stale, missing, shared while it is
written, or reused too early changes some token.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_toy import VOCAB, Asked, Trace
from ts_scheduler import CacheGroup, Config, least_pages

NO_GROUPS: st.SearchStrategy[list[dict[str, Any]]] = st.just([])


@st.composite
def cache_groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to three groups, ``num_pages`` beyond the fewest that are allowed."""
    windows = st.fixed_dictionaries({"kind": st.just("window"), "window": st.integers(1, 12)})
    states = st.fixed_dictionaries({"kind": st.just("state"), "checkpoint_blocks": st.integers(1, 4)})
    spare = st.fixed_dictionaries({"num_pages": st.sampled_from([0, 0, 3, 20])})
    return draw(st.lists(st.builds(dict.__or__, st.one_of(windows, states), spare), max_size=3))


@st.composite
def configs(draw: st.DrawFn, groups: st.SearchStrategy[list[dict[str, Any]]] = NO_GROUPS) -> Config:
    page_size = draw(st.integers(1, 4))
    limits = draw(limits_of(page_size))
    drawn = draw(groups)
    if drawn:  # windows and states stay where they are
        limits["host_pages"] = 0
    bare = Config(**limits)
    return Config(
        **limits,
        groups=[
            CacheGroup(**{**group, "num_pages": group["num_pages"] + least_pages(bare, CacheGroup(**group))})
            for group in drawn
        ],
    )


@st.composite
def limits_of(draw: st.DrawFn, page_size: int) -> dict[str, Any]:
    prefix_caching = draw(st.booleans())
    draft_tokens = draw(st.sampled_from([0, 0, 1, 2, 5]))
    return {
        "page_size": page_size,
        "num_pages": draw(st.integers(2, 64 // page_size)),
        "max_num_seqs": draw(st.integers(1, 5)),
        "max_model_len": draw(st.integers(8, 64)),
        "vocab_size": VOCAB,
        "chunk_tokens": 1 + draft_tokens + draw(st.integers(0, 23)),
        "draft_tokens": draft_tokens,
        "max_queued": draw(st.integers(1, 12)),
        "prefix_caching": prefix_caching,
        "host_pages": draw(st.integers(0, 20)) if prefix_caching else 0,
        "write_back_pages": draw(st.integers(1, 64)),
        "depth": draw(st.integers(1, 3)),
        "priority_tokens": draw(st.integers(0, 20)),
        "tool_wait_steps": draw(st.integers(0, 4)),
        "new_prompt_wait_steps": draw(st.integers(0, 6)),
        "growth_room": draw(st.sampled_from([0.0, 0.33, 0.9])),
        "min_tps": draw(st.sampled_from([0.0, 0.5, 200.0])),
    }


@settings(max_examples=400, deadline=None)
@given(
    configs(),
    st.lists(st.sampled_from(["submit", "submit", "plan", "plan", "settle", "transfer", "abort"]), max_size=60),
    st.integers(),
)
def test_every_trace_gives_each_request_what_it_gets_alone(config: Config, actions: list[str], seed: int) -> None:
    trace = Trace(config, seed)
    for action in actions:
        getattr(trace, action)()
    trace.finish()
    trace.check()


@settings(max_examples=400, deadline=None)
@given(
    configs(groups=cache_groups()),
    st.lists(st.sampled_from(["submit", "submit", "plan", "plan", "settle", "abort"]), max_size=60),
    st.integers(),
)
def test_with_groups_every_trace_gives_the_same(config: Config, actions: list[str], seed: int) -> None:
    trace = Trace(config, seed)
    for action in actions:
        getattr(trace, action)()
    trace.finish()
    trace.check()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("draft_tokens", [0, 1, 3])
def test_a_tiny_pool_preempts_and_loses_nothing(depth: int, prefix_caching: bool, draft_tokens: int) -> None:
    config = Config(
        page_size=2, num_pages=12, max_num_seqs=4, max_model_len=24, vocab_size=VOCAB, chunk_tokens=8, max_queued=100,
        prefix_caching=prefix_caching, depth=depth, draft_tokens=draft_tokens,
    )  # fmt: skip
    trace = Trace(config, 1)
    for request_id in range(40):
        prompt = [trace.rng.randrange(VOCAB) for _ in range(4)]
        trace.asked[request_id] = Asked(prompt, 16, ())
        assert trace.scheduler.submit(request_id, np.array(prompt, dtype=np.int32), 16) is None
    trace.finish()
    trace.check()
    stats = trace.scheduler.stats()
    assert stats.preemptions > 0
    assert stats.preemptions <= 40 * config.max_num_seqs
    assert stats.decode_tokens + 40 <= 40 * 16 + stats.preemptions * (1 + draft_tokens)
    assert (stats.accepted_draft_tokens > 0) == (draft_tokens > 0)
    assert stats.accepted_draft_tokens <= stats.draft_tokens


def test_the_trace_notices_a_wrong_page() -> None:
    """The oracle is worth something: a worker with two pages swapped gives other tokens."""
    config = Config(
        page_size=2, num_pages=16, max_num_seqs=2, max_model_len=32, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    trace = Trace(config, 5)
    trace.asked[0] = Asked([1, 2, 3, 4, 0, 1], 10, ())
    assert trace.scheduler.submit(0, np.array([1, 2, 3, 4, 0, 1], dtype=np.int32), 10) is None
    trace.plan()
    trace.settle()
    (table,) = trace.worker.tables.values()
    table[0], table[1] = table[1], table[0]
    trace.finish()
    with pytest.raises(AssertionError):
        trace.check()
