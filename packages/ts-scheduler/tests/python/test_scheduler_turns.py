"""Conversations against the toy model: later turns, the host tier, cache groups, a peer."""

import numpy as np
import pytest
from scheduler_toy import VOCAB, Asked, Trace, generate_alone
from ts_scheduler import CacheGroup, Config

GROUPS = [
    CacheGroup(kind="window", num_pages=40, window=6),
    CacheGroup(kind="state", num_pages=20, checkpoint_blocks=2),
]


def test_the_second_turn_hits_the_output_of_the_first() -> None:
    config = Config(
        page_size=4, num_pages=64, max_num_seqs=4, max_model_len=128, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    trace = Trace(config, 3)
    first = Asked([0, 1, 2, 3, 4, 0], 12, ())
    trace.asked[0] = first
    assert trace.scheduler.submit(0, np.array(first.prompt, dtype=np.int32), 12) is None
    trace.finish()
    second = Asked(first.prompt + first.got + [1, 1], 4, ())
    trace.asked[1] = second
    assert trace.scheduler.submit(1, np.array(second.prompt, dtype=np.int32), 4) is None
    trace.finish()
    trace.check()
    assert second.cached == (6 + 12 - 1) // 4 * 4, "all but the last token has been computed"
    stats = trace.scheduler.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (6 + 20, second.cached)
    assert stats.prefill_tokens == 6 + 20 - second.cached


def test_a_conversation_goes_on_from_the_host() -> None:
    config = Config(
        page_size=2, num_pages=12, max_num_seqs=2, max_model_len=64, vocab_size=VOCAB, chunk_tokens=16, max_queued=8,
        host_pages=40, write_back_pages=12, growth_room=0.0,
    )  # fmt: skip
    trace = Trace(config, 2)
    talks = [Asked([talk, 1, 2, 3, 4, talk], 4, ()) for talk in range(4)]
    for turn in range(3):
        for talk, asked in enumerate(talks):
            request_id = turn * len(talks) + talk
            trace.asked[request_id] = asked
            prompt = np.array(asked.prompt, dtype=np.int32)
            assert trace.scheduler.submit(request_id, prompt, 4, session=True) is None
            for _ in range(200):
                trace.plan()
                if trace.transfers:
                    (transfer,) = trace.transfers
                    trace.worker.complete(transfer, [])
                    trace.scheduler.end_transfer(transfer.id, True)
                    trace.transfers.clear()
                trace.settle()
            assert asked.finish == "length"
        trace.check()
        talks = [Asked([*asked.prompt, *asked.got, 0], 4, ()) for asked in talks]
    stats = trace.scheduler.stats()
    assert stats.host_loaded_pages > 0
    assert stats.prefill_tokens <= 4 * (6 + 3 + 3) + 2 * 4, "each turn computes what is new, and part of a block"


def with_groups() -> Trace:
    """After a first turn of 6 + 12 tokens."""
    config = Config(
        page_size=4, num_pages=64, max_num_seqs=4, max_model_len=128, vocab_size=VOCAB, chunk_tokens=16, max_queued=8,
        groups=GROUPS,
    )  # fmt: skip
    trace = Trace(config, 3)
    trace.asked[0] = Asked([0, 1, 2, 3, 4, 0], 12, ())
    assert trace.scheduler.submit(0, np.array(trace.asked[0].prompt, dtype=np.int32), 12) is None
    trace.finish()
    return trace


def second_turn(trace: Trace) -> Asked:
    asked = Asked(trace.asked[0].prompt + trace.asked[0].got + [1, 1], 4, ())
    trace.asked[1] = asked
    assert trace.scheduler.submit(1, np.array(asked.prompt, dtype=np.int32), 4) is None
    return asked


def test_with_groups_the_second_turn_hits_as_far_as_all_agree() -> None:
    trace = with_groups()
    second = second_turn(trace)
    trace.finish()
    trace.check()
    assert second.cached == 16, "the last checkpoint of the state"


@pytest.mark.parametrize("group", [0, 1])
def test_the_trace_notices_a_wrong_page_of_a_group(group: int) -> None:
    trace = with_groups()
    second_turn(trace)
    pages = trace.worker.groups[group].cache
    for page in trace.scheduler.snapshot().groups[group].attached:
        pages[page] = [value + 1 for value in pages[page]]
    trace.finish()
    with pytest.raises(AssertionError):
        trace.check()


def test_a_request_goes_on_at_a_peer() -> None:
    """One machine computes prompts, another answers; their pages have other numbers there."""
    config = Config(
        page_size=4, num_pages=40, max_num_seqs=4, max_model_len=64, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    prompts, answers = Trace(config, 1), Trace(config, 2)
    for request_id, prompt in enumerate([[1, 2, 3, 4, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 3], [0, 0, 2]]):
        asked = Asked(prompt, 12, ())
        prompts.asked[request_id] = asked
        assert prompts.scheduler.submit(request_id, np.array(prompt, dtype=np.int32), 12, send=True) is None
        while asked.finish is None:
            prompts.plan()
            prompts.settle()
        assert (asked.finish, len(asked.got)) == ("sent", 1)
        (send,) = prompts.transfers
        assert (send.kind, send.request, send.tokens) == ("send", request_id, len(prompt))

        going_on = Asked(prompt + asked.got, 11, ())
        answers.asked[request_id] = going_on
        peer = answers.scheduler
        assert peer.submit(request_id, np.array(going_on.prompt, dtype=np.int32), 11, receive=True) is None
        answers.plan()
        (receive,) = answers.transfers
        assert (receive.kind, receive.tokens) == ("receive", send.tokens)
        cached = len(send.pages) - len(receive.pages)  # what the peer has it does not ask for
        for theirs, ours in zip(send.pages[cached:, 0].tolist(), receive.pages[:, 0].tolist(), strict=True):
            answers.worker.cache[ours] = list(prompts.worker.cache[theirs])
        for trace, transfer in ((prompts, send), (answers, receive)):
            trace.scheduler.end_transfer(transfer.id, True)
            trace.transfers.clear()
        answers.finish()
        assert asked.got + going_on.got == generate_alone(prompt, 12, ())[0]
    prompts.check()
    answers.check()
    assert answers.scheduler.stats().prefill_tokens == 3, "the peer computes one token of each prompt"
    assert answers.asked[1].cached == 4
