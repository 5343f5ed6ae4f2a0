"""The executor around a model that remembers: its next token is a hash of the whole sequence, read back through the
block tables, so a wrong page, position, length or fed token shows in the tokens."""

from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from ts_modeling import ForwardBatch
from ts_protocol.messages import ROW_SAMPLE, ROW_TOKEN_ON_DEVICE, UNUSABLE, SamplingParams, SlotAdmit, StepPlan
from ts_protocol.wire import bitmap_of
from ts_runtime.devices import CpuDevice, CudaDevice, Device
from ts_runtime.errors import PlanError
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize
from ts_runtime.sampler import Sampler
from ts_runtime.staging import Draw
from ts_runtime.testing import PlanMaker

VOCAB, PAGE, PAGES, SLOTS, CHUNK, LONGEST = 97, 4, 64, 6, 32, 48


def successor(tokens: list[int]) -> int:
    """The token that follows a sequence."""
    value = 7
    for position, token in enumerate(tokens):
        value = (value * 31 + token * (position + 3) + 11) % 1_000_003
    return value % VOCAB


class RememberingModel:
    """Writes (token, position) into the cache and predicts from nothing but the cache."""

    config, sampler = SimpleNamespace(vocab_size=VOCAB), None

    def new_cache(self) -> list[Tensor]:
        return [torch.full((PAGES, PAGE, 2), -1, dtype=torch.int64)]

    def forward(self, batch: ForwardBatch, cache: list[Tensor]) -> Tensor:
        flat = cache[0].view(-1, 2)
        flat[batch.slot_mapping] = torch.stack([batch.tokens.long(), batch.positions], 1)
        lengths = batch.decode_seq_lens.tolist() + batch.prefill_seq_lens.tolist()
        tables = [*batch.decode_block_tables, *batch.prefill_block_tables]
        ends = list(range(batch.n_decode)) + [batch.n_decode + end - 1 for end in batch.prefill_cu_q[1:].tolist()]
        assert len(batch.tokens) == batch.n_decode + int(batch.prefill_cu_q[-1])
        logits = torch.zeros(len(batch.tokens), VOCAB)
        for token, table, length in zip(ends, tables, lengths, strict=True):
            places = [int(table[p // PAGE]) * PAGE + p % PAGE for p in range(length)]
            assert flat[places, 1].tolist() == list(range(length)), "the cache holds other positions"
            logits[token, successor(flat[places, 0].tolist())] = 1
        return logits if batch.sample_indices is None else logits[batch.sample_indices]


def make_executor() -> Executor:
    model: Any = RememberingModel()
    pool = PoolSize(num_pages=PAGES, page_size=PAGE, max_model_len=LONGEST)
    return Executor(model, model.new_cache(), pool, device=CpuDevice(), max_num_seqs=SLOTS, chunk_tokens=CHUNK)


def run_step(executor: Executor, maker: PlanMaker) -> None:
    plan = maker.plan()
    maker.settle(plan, executor.launch(*plan).wait())


def expected(prompt: list[int], total: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < total:
        tokens.append(successor(tokens))
    return tokens


def test_a_prompt_in_chunks_then_decodes() -> None:
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    prompt = [5, 9, 2, 80, 41, 3, 3, 17, 60]
    maker.admit(2, prompt)
    for count in (1, 5, 3):
        maker.prefill(2, count)
        run_step(executor, maker)
    for _ in range(12):
        maker.decode(2)
        run_step(executor, maker)
    assert maker.live[2].tokens == expected(prompt, 22)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mixture_of_chunks_decodes_and_preemption_gives_each_request_its_own_tokens(data: st.DataObject) -> None:
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE, seed=data.draw(st.integers(0, 99)))
    prompts: dict[int, list[int]] = {}
    for _ in range(data.draw(st.integers(1, 20))):
        room = CHUNK
        for slot in data.draw(st.permutations(range(SLOTS))):
            request = maker.live.get(slot)
            if request is None:
                if len(maker.live) < 4 and data.draw(st.booleans()):
                    prompts[slot] = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20))
                    maker.admit(slot, prompts[slot])
            elif data.draw(st.integers(0, 9)) == 0 or len(request.tokens) >= LONGEST:
                assert request.tokens == expected(prompts[slot], len(request.tokens))
                resume, tokens = data.draw(st.booleans()) and len(request.tokens) < LONGEST, request.tokens
                maker.release(slot)
                if resume:
                    maker.admit(slot, tokens)
            elif not request.sampled:
                count = data.draw(st.integers(1, len(request.tokens) - request.planned))
                if count <= room:
                    maker.prefill(slot, count)
                    room -= count
            elif room:
                maker.decode(slot)
                room -= 1
        run_step(executor, maker)
    for slot, request in maker.live.items():
        assert request.tokens == expected(prompts[slot], len(request.tokens))


def test_a_step_without_rows_and_a_step_without_samples() -> None:
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    assert executor.launch(*maker.plan()).wait().tolist() == []
    maker.admit(0, [1, 2, 3])
    maker.prefill(0, 2)
    assert executor.launch(*maker.plan()).wait().tolist() == []
    maker.prefill(0, 1)
    assert executor.launch(*maker.plan()).wait().tolist() == [successor([1, 2, 3])]


def test_seeds_beyond_63_bits_are_taken() -> None:
    executor = make_executor()
    executor.slots.apply(StepPlan(1, [SlotAdmit(1, SamplingParams(1.0, 1.0, 0, 2**64 - 2))], []), np.zeros((0, 4), int))
    assert executor.slots.seed[1] == -2


DECODE = ROW_SAMPLE | ROW_TOKEN_ON_DEVICE
BAD = {
    "slot beyond": ([[SLOTS, 0, 1, 0]], [1], [], "not all of them serve a request"),
    "slot below": ([[-1, 0, 1, 0]], [1], [], "not all of them serve a request"),
    "slot idle": ([[5, 0, 1, 0]], [1], [], "not all of them serve a request"),
    "twice": ([[0, 2, 1, 0], [0, 3, 1, 0]], [1, 1], [], "slot 0 has more than one row"),
    "empty row": ([[0, 2, 0, 0]], [], [], "empty"),
    "negative start": ([[0, -2, 1, 0]], [1], [], "starts before its sequence"),
    "too long": ([[0, 2, LONGEST, 0]], [1] * LONGEST, [], "beyond max_model_len = 48"),
    "step too big": ([[0, 2, 30, 0], [1, 0, 30, 0]], [1] * 60, [], "60 tokens; a step holds at most 32"),
    "token missing": ([[0, 2, 2, 0]], [1], [], "need 2 tokens from the host and it has 1"),
    "token beyond": ([[0, 2, 1, 0]], [VOCAB], [], "exceed the vocabulary of 97"),
    "token below": ([[0, 2, 1, 0]], [-1], [], "exceed the vocabulary"),
    "no pages": ([[0, 2, 3, 0]], [1, 1, 1], [], "slot 0 has too few pages for 5 tokens"),
    "gap": ([[0, 3, 1, 0]], [1], [], "slot 0 starts at 3; its sequence is at 2"),
    "nothing fed": ([[0, 2, 1, DECODE]], [], [], "sampled none"),
    "late decode": ([[1, 0, 1, 0], [2, 2, 1, DECODE]], [1], [], "decodes come first"),
    "long decode": ([[2, 2, 2, DECODE]], [], [], "more than one token"),
    "page beyond": ([], [], [[0, 0, 1, PAGES]], "the cache has 64"),
    "page below": ([], [], [[0, 0, 1, -1]], "the cache has 64"),
    "page for nobody": ([], [], [[5, 0, 0, 0]], "slot 5, which does not serve"),
    "page for no slot": ([], [], [[SLOTS, 0, 0, 0]], "slot 6, which does not serve"),
    "table full": ([], [], [[0, 0, page, page] for page in range(20)], "more than the 12 pages"),
    "block again": ([], [], [[0, 0, 0, 5]], r"blocks \[0\]; its next one is 1"),
    "block left out": ([], [], [[0, 0, 1, 5], [0, 0, 3, 6]], r"blocks \[1, 3\]; its next one is 1"),
    "page of a group": ([], [], [[0, 0, 1, 5], [0, 2, 0, 6]], "group 2; this worker has full attention alone"),
}


def three_requests() -> tuple[Executor, PlanMaker]:
    """One within its prompt, one without a row yet, one that has sampled."""
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    maker.admit(0, [1, 2, 3])
    maker.prefill(0, 2)
    maker.admit(1, [4])
    maker.admit(2, [5, 6])
    maker.prefill(2, 2)
    return executor, maker


@pytest.mark.parametrize("case", BAD)
def test_an_impossible_plan_is_refused_by_name(case: str) -> None:
    rows, tokens, pages, message = BAD[case]
    executor, maker = three_requests()
    plan = maker.plan()
    plan[1][2] = np.append(plan[1][2], np.array([1, 0, 0, maker.free[0]], np.int32))
    executor.launch(*plan)
    frames = [np.array(part, np.int32).reshape(-1) for part in (rows, tokens, pages, [])]
    with pytest.raises(PlanError, match=message):
        executor.launch(StepPlan(2, [], []), frames)


BAD_DECODES = {
    "slot beyond": (bitmap_of([2, SLOTS]), [], "bits for 8 slots; there are 6"),
    "longer than the slots": (bitmap_of([2]) + bytes(1), [], "bits for 16 slots; there are 6"),
    "slot idle": (bitmap_of([2, 5]), [], r"decodes slots \[5\], which serve no request"),
    "nothing sampled": (bitmap_of([0]), [], r"decodes slots \[0\], which serve no request or have sampled no token"),
    "no row yet": (bitmap_of([1]), [], r"decodes slots \[1\], which serve no request or have sampled no token"),
    "twice": (bitmap_of([2]), [[2, 3, 1, DECODE]], "slot 2 has more than one row"),
}


@pytest.mark.parametrize("case", BAD_DECODES)
def test_an_impossible_bitmap_is_refused_by_name(case: str) -> None:
    decodes, rows, message = BAD_DECODES[case]
    executor, maker = three_requests()
    executor.launch(*maker.plan())
    empty = np.zeros(0, np.int32)
    with pytest.raises(PlanError, match=message):
        executor.launch(StepPlan(2, [], [], decodes), [np.array(rows, np.int32).reshape(-1), empty, empty, empty])


def test_a_bitmap_that_outgrows_its_pages_is_refused() -> None:
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    maker.admit(2, [5, 6])
    maker.prefill(2, 2)
    executor.launch(*maker.plan())
    empty = np.zeros(0, np.int32)
    for step in range(2):
        executor.launch(StepPlan(step, [], [], bitmap_of([2])), [empty, empty, empty, empty])
    with pytest.raises(PlanError, match="slot 2 has too few pages for 5 tokens"):
        executor.launch(StepPlan(9, [], [], bitmap_of([2])), [empty, empty, empty, empty])


@pytest.mark.parametrize(
    "steps",
    [
        [((1, 3), ()), ((1,), ()), ((3,), ()), ((1, 3), ())],
        [((1,), ()), ((1,), (3,)), ((1,), ()), ((3,), (1,)), ((3,), ())],
        [((1, 3), ()), ((), (1, 3)), ((), (3, 1)), ((1, 3), ())],
    ],
    ids=["other bits", "rows beside the bits", "rows alone"],
)
def test_a_steady_step_is_left_when_other_slots_decode(steps: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Nobody comes or goes between these steps: the bits and the rows alone tell them apart."""
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    prompts = {1: [5, 9, 2], 3: [7]}
    for slot, prompt in prompts.items():
        maker.admit(slot, prompt)
        maker.prefill(slot, len(prompt))
    run_step(executor, maker)
    for bits, explicit in steps * 2:
        order = [*sorted(bits), *explicit]
        rows = [[slot, maker.live[slot].planned, 1, DECODE] for slot in explicit]
        for slot in order:
            maker.decode(slot)
        plan, frames = maker.plan()
        frames[0] = np.array(rows, np.int32).reshape(-1)
        sampled = executor.launch(StepPlan(plan.step, [], [], bitmap_of(bits)), frames).wait()
        for slot, token in zip(order, sampled.tolist(), strict=True):
            maker.live[slot].tokens.append(token)
    for slot, prompt in prompts.items():
        assert maker.live[slot].tokens == expected(prompt, len(maker.live[slot].tokens))


@pytest.mark.parametrize("explicit", [0, 1, 2])
def test_bits_and_rows_say_the_same(explicit: int) -> None:
    """A decode may travel either way, and steady steps follow both."""
    executor, maker = make_executor(), PlanMaker(num_pages=PAGES, page_size=PAGE)
    prompts = {1: [5, 9, 2], 3: [7]}
    for slot, prompt in prompts.items():
        maker.admit(slot, prompt)
        maker.prefill(slot, len(prompt))
    run_step(executor, maker)
    for step in range(12):
        for slot in prompts:
            maker.decode(slot)
        plan, frames = maker.plan()
        if step % 3 == 0:
            rows = [[slot, len(prompts[slot]) + step, 1, DECODE] for slot in (1, 3)]
            plan = StepPlan(plan.step, [], [], bitmap_of([1, 3][: 2 - explicit]))
            frames[0] = np.array(rows[2 - explicit :], np.int32).reshape(-1)
        sampled = executor.launch(plan, frames).wait()
        for slot, token in zip((1, 3), sampled.tolist(), strict=True):
            maker.live[slot].tokens.append(token)
    for slot, prompt in prompts.items():
        assert maker.live[slot].tokens == expected(prompt, len(prompt) + 13)


@pytest.mark.parametrize(
    ("admits", "releases", "message"),
    [
        ([SlotAdmit(SLOTS, SamplingParams())], [], "admits name slot 6; there are 6"),
        ([], [-1], "releases name slot -1"),
        ([SlotAdmit(0, SamplingParams(temperature=float("nan")))], [], "temperature >= 0"),
        ([SlotAdmit(0, SamplingParams(top_p=0.0))], [], "top_p"),
        ([SlotAdmit(0, SamplingParams(top_k=-1))], [], "top_k"),
    ],
)
def test_impossible_slots_and_sampling_are_refused(admits: Any, releases: Any, message: str) -> None:
    empty = np.zeros(0, np.int32)
    with pytest.raises(PlanError, match=message):
        make_executor().launch(StepPlan(1, admits, releases), [empty, empty, empty, empty])


def test_a_running_state_has_no_place_here() -> None:
    empty = np.zeros(0, np.int32)
    with pytest.raises(PlanError, match="this worker has full attention alone"):
        make_executor().launch(StepPlan(1, [], []), [empty, empty, empty, np.array([0, 1, 0, 4, 0], np.int32)])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("kind", [CpuDevice, CudaDevice])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_is_drawn_only_where_the_highest_logit_is_a_number(
    temperature: float, kind: type[CpuDevice | CudaDevice]
) -> None:
    device: Device = kind.__new__(kind)  # its arithmetic needs no device
    logits = torch.tensor([[0.0, 9.0], [NAN, 1.0], [NAN, NAN], [-INF, -INF], [NAN, -INF], [INF, 0.0], [-INF, 2.0]])
    count = len(logits)
    zeros, ones = torch.zeros(count, dtype=torch.int64), torch.ones(count)
    rows = Draw(
        slots=zeros,
        positions=zeros,
        temperature=torch.full((count,), temperature),
        top_k=torch.ones(count, dtype=torch.int32),
        top_p=ones,
        seeds=zeros,
        greedy=not temperature,
    )
    assert Sampler(None, device).draw(logits, rows).tolist() == [1, 1, UNUSABLE, UNUSABLE, UNUSABLE, UNUSABLE, 1]
