"""Running states in the executor, around a model whose next token is a hash of the whole sequence, kept in its state
alone: a state that is missed, copied late or shared shows in the tokens."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from ts_modeling import ForwardBatch
from ts_protocol.messages import StepPlan
from ts_runtime.devices import CpuDevice
from ts_runtime.errors import PlanError
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize
from ts_runtime.testing import PlanMaker

VOCAB, PAGE, PAGES, STATES, SLOTS, CHUNK, LONGEST = 97, 4, 64, 40, 4, 32, 48
GROUPS = (SimpleNamespace(kind="full", layers=(0,)), SimpleNamespace(kind="state", layers=(1,)))


def advance(value: int, token: int, position: int) -> int:
    return (value * 31 + token * (position + 3) + 11) % 1_000_003


def successor(tokens: list[int]) -> int:
    value = 7
    for position, token in enumerate(tokens):
        value = advance(value, token, position)
    return value % VOCAB


class RunningModel:
    """Its state is (hash, tokens in it); rows must start where their state stands."""

    config, sampler = SimpleNamespace(vocab_size=VOCAB), None
    kv_spec = SimpleNamespace(groups=GROUPS)

    def __init__(self) -> None:
        self.passes: list[int] = []

    def forward(self, batch: ForwardBatch, cache: list[Tensor]) -> Tensor:
        states = batch.states
        assert states is not None
        self.passes.append(len(batch.tokens))
        assert states.decode.tolist() == list(dict.fromkeys(states.decode.tolist()))
        stops = batch.prefill_cu_q.tolist()
        spans = [(i, i + 1) for i in range(batch.n_decode)]
        spans += [(batch.n_decode + a, batch.n_decode + b) for a, b in pairwise(stops)]
        pages = states.decode.tolist() + states.prefill.tolist()
        fresh = [False] * batch.n_decode + states.fresh.tolist()
        logits = torch.zeros(len(batch.tokens), VOCAB)
        for (start, end), page, empty in zip(spans, pages, fresh, strict=True):
            value, count = (7, 0) if empty else cache[1][page].tolist()
            for place in range(start, end):
                assert count == int(batch.positions[place]), "the state is another position's"
                value, count = advance(value, int(batch.tokens[place]), count), count + 1
                logits[place, value % VOCAB] = 1
            cache[1][page] = torch.tensor([value, count])
        return logits if batch.sample_indices is None else logits[batch.sample_indices]


def make() -> tuple[Executor, RunningModel, PlanMaker]:
    model: Any = RunningModel()
    pool = PoolSize(num_pages=PAGES, page_size=PAGE, max_model_len=LONGEST, num_states=STATES, checkpoint_blocks=1)
    cache: Any = [torch.zeros(PAGES, PAGE), torch.full((STATES, 2), -1, dtype=torch.int64)]
    executor = Executor(model, cache, pool, device=CpuDevice(), max_num_seqs=SLOTS, chunk_tokens=CHUNK)
    return executor, model, PlanMaker(num_pages=PAGES, page_size=PAGE, num_states=STATES, seed=3)


def run_step(executor: Executor, maker: PlanMaker) -> None:
    plan = maker.plan()
    maker.settle(plan, executor.launch(*plan).wait())


def expected(prompt: list[int], total: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < total:
        tokens.append(successor(tokens))
    return tokens


PROMPT = [5, 9, 2, 80, 41, 3, 3, 17, 60, 8, 8]


def test_a_row_is_cut_where_a_checkpoint_is_wanted() -> None:
    executor, model, maker = make()
    maker.admit(1, PROMPT)
    maker.admit(0, [4, 5])
    maker.prefill(0, 2)
    run_step(executor, maker)
    maker.decode(0)
    maker.prefill(1, 11)
    saved = {position: maker.save(1, position) for position in (4, 8, 11)}
    model.passes.clear()
    run_step(executor, maker)
    assert model.passes == [4, 4, 1 + 3], "the decode runs once, with the last piece"
    maker.release(1)
    for slot, position in enumerate((4, 8, 11), start=1):
        tokens = [*PROMPT, 1, 2, 3][: max(position + 1, 9)]
        maker.admit(slot, tokens, cached=position, state=saved[position])
        maker.prefill(slot, len(tokens) - position)
        run_step(executor, maker)
        maker.decode(slot)
        run_step(executor, maker)
        assert maker.live[slot].tokens == expected(tokens, len(tokens) + 2)


def test_a_decode_leaves_a_checkpoint_in_the_midst_of_steady_steps() -> None:
    executor, model, maker = make()
    maker.admit(2, PROMPT)
    maker.prefill(2, 11)
    run_step(executor, maker)
    pages = {}
    for length in range(12, 21):
        maker.decode(2)
        if length % PAGE == 0:
            pages[length] = maker.save(2, length)
        run_step(executor, maker)
    tokens = maker.live[2].tokens
    assert tokens == expected(PROMPT, 21)
    assert set(model.passes[1:]) == {1}
    for slot, (length, page) in enumerate(pages.items()):
        if slot in maker.live:
            maker.release(slot)
        maker.admit(slot, tokens[: length + 1], cached=length, state=page)
        maker.prefill(slot, 1)
        run_step(executor, maker)
        assert maker.live[slot].tokens[-1] == expected(PROMPT, length + 2)[-1]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mixture_of_chunks_checkpoints_and_second_turns_gives_each_request_its_own_tokens(
    data: st.DataObject,
) -> None:
    executor, _, maker = make()
    prompts: dict[int, list[int]] = {}
    kept: list[tuple[list[int], int]] = []
    for _ in range(data.draw(st.integers(1, 16))):
        room, new = CHUNK, []
        for slot in data.draw(st.permutations(range(SLOTS))):
            request = maker.live.get(slot)
            if request is None:
                prefix, page = data.draw(st.sampled_from([([], -1), *kept]))
                more = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=16))
                if len(prefix) + len(more) < LONGEST - 8:
                    prompts[slot] = prefix + more
                    maker.admit(slot, prompts[slot], cached=len(prefix), state=page)
                    maker.prefill(slot, 1)
                    room -= 1
            elif len(request.tokens) >= LONGEST - 1 or data.draw(st.integers(0, 9)) == 0:
                maker.release(slot)
            elif not request.sampled:
                count = data.draw(st.integers(1, len(request.tokens) - request.planned))
                if count > room:
                    continue
                first = request.planned
                maker.prefill(slot, count)
                room -= count
                for position in range(first + 1, first + count + 1):
                    if position % PAGE == 0 and len(maker.free_states) > 2 * SLOTS and data.draw(st.booleans()):
                        new.append((request.tokens[:position], maker.save(slot, position)))
            elif room:
                maker.decode(slot)
                room -= 1
        run_step(executor, maker)
        kept += new
        for slot, request in maker.live.items():
            assert request.tokens == expected(prompts[slot], len(request.tokens))


def states(*entries: tuple[int, ...]) -> Any:
    return np.array(entries, np.int32).reshape(-1)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(3, 1, 30, 4, 1)], r"states of slots \[3\]"),
        ([(-1, 1, 30, 4, 1)], r"states of slots \[-1\]"),
        ([(0, 2, 30, 4, 1)], r"groups \[2\]"),
        ([(0, 1, 40, 4, 1)], "there are 40"),
        ([(0, 1, -1, 4, 1)], "there are 40"),
        ([(0, 1, 30, 12, 1)], r"saves states of \[12\] tokens, beyond its rows"),
        ([(0, 1, 30, 0, 1)], r"saves states of \[0\] tokens, beyond its rows"),
        ([(0, 1, 30, 4, 0)], r"loads states of \[4\] tokens for rows that start at \[0\]"),
        ([(0, 1, 30, 0, 0)], "slot 0 starts in a prefix without its state, or loads one"),
        ([(0, 1, 30, 0, 0), (0, 1, 31, 0, 0)], "loads states"),
    ],
)
def test_impossible_copies_of_states_are_refused(entries: list[tuple[int, ...]], said: str) -> None:
    executor, _, maker = make()
    maker.admit(0, PROMPT)
    maker.prefill(0, 11)
    plan, (rows, tokens, pages, _) = maker.plan()
    with pytest.raises(PlanError, match=said):
        executor.launch(plan, [rows, tokens, pages, states(*entries)])


def test_a_slots_own_state_is_no_checkpoint() -> None:
    executor, _, maker = make()
    maker.admit(0, PROMPT)
    maker.prefill(0, 11)
    own = maker.live[0].state
    plan, (rows, tokens, pages, _) = maker.plan()
    with pytest.raises(PlanError, match="to or from pages"):
        executor.launch(plan, [rows, tokens, pages, states((0, 1, own, 4, 1))])


def test_a_prefix_without_its_state_is_refused() -> None:
    executor, _, maker = make()
    maker.admit(0, PROMPT, cached=4)
    maker.prefill(0, 7)
    with pytest.raises(PlanError, match="slot 0 starts in a prefix without its state"):
        executor.launch(*maker.plan())


@pytest.mark.parametrize(
    ("page", "said"),
    [((0, 1, 1, 3), "as block 1"), ((0, 1, 0, 40), "state 40"), ((0, 2, 0, 3), "group 2"), ((3, 1, 0, 3), "slot 3")],
)
def test_impossible_pages_of_states_are_refused(page: tuple[int, ...], said: str) -> None:
    executor, _, maker = make()
    maker.has_states = False
    maker.admit(0, PROMPT)
    maker.prefill(0, 11)
    plan, (rows, tokens, pages, none) = maker.plan()
    with pytest.raises(PlanError, match=said):
        executor.launch(plan, [rows, tokens, np.concatenate((pages, np.array(page, np.int32))), none])


def test_a_row_without_a_state_is_refused() -> None:
    executor, _, maker = make()
    maker.has_states = False
    maker.admit(0, PROMPT)
    maker.prefill(0, 11)
    with pytest.raises(PlanError, match="slot 0 has a row and no page for its state"):
        executor.launch(*maker.plan())


def test_states_without_rows_are_refused() -> None:
    executor, _, _ = make()
    none = np.zeros(0, np.int32)
    with pytest.raises(PlanError, match="states"):
        executor.launch(StepPlan(1, [], []), [none, none, none, states((0, 1, 3, 4, 1))])
