"""The executor with a real model on a tiny random checkpoint: transformers' greedy tokens, whatever the batching."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from ts_modeling import LoadedModel, SampledRows, load_model
from ts_modeling.testing import oracle, oracle_logits, write_checkpoint
from ts_protocol.messages import UNUSABLE, SamplingParams
from ts_runtime.devices import CpuDevice
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize
from ts_runtime.sampler import CANDIDATES, Sampler
from ts_runtime.staging import Draw
from ts_runtime.testing import GREEDY, PlanMaker

PAGE, PAGES, SLOTS, LONGEST, ANSWER = 16, 80, 6, 256, 12
LENGTHS = (45, 17, 130, 1)
BROKEN_TOKEN = 319


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    write_checkpoint(made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(folder, dtype="float32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(320, (length,), generator=generator).tolist() for length in LENGTHS]


class Server:
    """Serves requests in slots with a fixed chunk, decodes first."""

    def __init__(self, model: LoadedModel, *, chunk: int, seed: int = 0) -> None:
        pool = PoolSize(num_pages=PAGES, page_size=PAGE, max_model_len=LONGEST)
        cache = model.new_cache(PAGES, PAGE)
        for layer in cache:
            layer.fill_(float("nan"))  # what is read without having been written shows
        self.chunk = chunk
        self.executor = Executor(model, cache, pool, device=CpuDevice(), max_num_seqs=SLOTS, chunk_tokens=chunk + SLOTS)
        self.maker = PlanMaker(num_pages=PAGES, page_size=PAGE, seed=seed)

    def step(self) -> None:
        room = self.chunk
        for slot, request in self.maker.live.items():
            if request.sampled:
                self.maker.decode(slot)
            elif room:
                count = min(room, len(request.tokens) - request.planned)
                self.maker.prefill(slot, count)
                room -= count
        plan = self.maker.plan()
        self.maker.settle(plan, self.executor.launch(*plan).wait())

    def until(self, slot: int, total: int) -> list[int]:
        while len(self.maker.live[slot].tokens) < total:
            self.step()
        return self.maker.live[slot].tokens[:total]


def serve(server: Server, prompts: Sequence[list[int]], sampling: Sequence[SamplingParams]) -> list[list[int]]:
    """All together; each answer is cut to ``ANSWER`` tokens."""
    for slot, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        server.maker.admit(slot, prompt, params)
    return [server.until(slot, len(prompt) + ANSWER)[len(prompt) :] for slot, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def answers(folder: Path, model: LoadedModel, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers to each prompt alone. Each token is the argmax of transformers, on the dequantized checkpoint in
    float32, at its place: by induction they are what transformers generates."""
    reference = oracle(folder)
    found = []
    for prompt in prompts:
        answer = serve(Server(model, chunk=512), [prompt], [GREEDY])[0]
        best = oracle_logits(reference, prompt + answer)[len(prompt) - 1 : -1].argmax(-1)
        assert answer == best.tolist()
        found.append(answer)
    return found


@pytest.mark.parametrize("chunk", [16, 512])
def test_greedy_tokens_equal_transformers_batched_together(
    model: LoadedModel, prompts: list[list[int]], answers: list[list[int]], chunk: int
) -> None:
    assert serve(Server(model, chunk=chunk, seed=chunk), prompts, [GREEDY] * len(prompts)) == answers


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, seed=3)])
def test_a_request_whose_numbers_break_down_says_so_and_harms_no_other(
    tmp_path: Path, prompts: list[list[int]], params: SamplingParams
) -> None:
    write_checkpoint(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    (embedding,) = (tensor for name, tensor in tensors.items() if "embed_tokens" in name)
    embedding[BROKEN_TOKEN] = float("nan")
    save_file(tensors, path)
    broken = load_model(tmp_path, dtype="float32")
    healthy = [[token for token in prompt if token != BROKEN_TOKEN] for prompt in prompts[:2]]
    alone = [serve(Server(broken, chunk=64), [prompt], [params])[0] for prompt in healthy]
    assert not any(UNUSABLE in answer for answer in alone)
    first, bad, last = serve(Server(broken, chunk=64), [healthy[0], [5, BROKEN_TOKEN, 6], healthy[1]], [params] * 3)
    assert [first, last] == alone
    assert bad == [UNUSABLE] * ANSWER


def test_a_preempted_request_goes_on_as_if_nothing_had_been(
    model: LoadedModel, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    server = Server(model, chunk=32)
    server.maker.admit(1, prompts[0])
    server.maker.admit(2, prompts[1])
    known = server.until(1, len(prompts[0]) + 5)
    server.maker.release(1)
    server.step()  # another request runs on meanwhile, and takes the freed pages
    server.maker.admit(4, prompts[2])
    server.step()
    server.maker.admit(1, known)  # recompute
    assert server.until(1, len(prompts[0]) + ANSWER)[len(prompts[0]) :] == answers[0]
    assert server.until(2, len(prompts[1]) + ANSWER)[len(prompts[1]) :] == answers[1]
    assert server.until(4, len(prompts[2]) + ANSWER)[len(prompts[2]) :] == answers[2]


MIXED = [
    SamplingParams(temperature=1.0, seed=11),
    SamplingParams(temperature=0.7, top_p=0.9, seed=2**64 - 3),
    GREEDY,
    SamplingParams(temperature=1.5, top_k=20, seed=13),
]


def test_sampled_tokens_depend_on_the_seed_and_not_on_the_batch(
    model: LoadedModel, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    together = serve(Server(model, chunk=16), prompts, MIXED)
    alone = [
        serve(Server(model, chunk=512, seed=9), [prompt], [params])[0]
        for prompt, params in zip(prompts, MIXED, strict=True)
    ]
    assert together == alone
    assert together[2] == answers[2]
    other_seeds = [SamplingParams(p.temperature, p.top_p, p.top_k, p.seed + 1) for p in MIXED]
    changed = serve(Server(model, chunk=16), prompts, other_seeds)
    assert [old != new for old, new in zip(together, changed, strict=True)] == [True, True, False, True]


def test_sampling_parameters_reach_the_draw(
    model: LoadedModel, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    hot: dict[str, Any] = {"temperature": 5.0, "seed": 3}
    narrow = [SamplingParams(top_k=1, **hot), SamplingParams(top_p=1e-6, **hot)]
    assert serve(Server(model, chunk=512), prompts[:2], narrow) == answers[:2]
    wide = [SamplingParams(**hot)] * 2
    assert serve(Server(model, chunk=512), prompts[:2], wide) != answers[:2]


def test_slots_keep_their_own_parameters_when_others_change(model: LoadedModel, prompts: list[list[int]]) -> None:
    alone = serve(Server(model, chunk=64), [prompts[1]], [MIXED[0]])[0]
    server = Server(model, chunk=64)
    server.maker.admit(0, prompts[3], MIXED[1])
    server.maker.admit(3, prompts[1], MIXED[0])
    server.until(0, 3)
    server.maker.release(0)
    server.maker.admit(0, prompts[0], MIXED[3])
    assert server.until(3, len(prompts[1]) + ANSWER)[len(prompts[1]) :] == alone


KEPT = [GREEDY, SamplingParams(temperature=1.0, top_k=CANDIDATES, seed=5), SamplingParams(temperature=0.7, top_k=3)]
"""Drawn among candidates, where the next one is not."""
BEYOND = SamplingParams(temperature=1.2, top_k=CANDIDATES + 1, top_p=0.95, seed=8)


@pytest.mark.parametrize(
    "params", [[GREEDY] * 3, KEPT, [MIXED[0], *KEPT], [GREEDY, BEYOND, *MIXED], [*MIXED[:2], BEYOND]]
)
def test_candidates_give_the_same_tokens_and_only_rows_that_need_all_logits_gather_them(
    folder: Path, model: LoadedModel, prompts: list[list[int]], params: list[SamplingParams]
) -> None:
    cut, gathered = load_model(folder, dtype="float32", candidates=CANDIDATES), set()
    assert cut.sampler
    gather = cut.sampler.gather

    def watched(rows: SampledRows) -> torch.Tensor:
        gathered.update(np.unique(rows.seeds.numpy()).tolist())
        return gather(rows)

    cut = replace(cut, sampler=replace(cut.sampler, gather=watched))
    some = (prompts * 2)[: len(params)]
    assert serve(Server(cut, chunk=32), some, params) == serve(Server(model, chunk=32), some, params)
    assert gathered == {p.seed - (p.seed >> 63 << 64) for p in params if p not in (*KEPT, MIXED[3], GREEDY)}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [1, 0])
def test_candidates_are_drawn_only_where_the_highest_logit_is_a_number(
    folder: Path, temperature: float, top_k: int
) -> None:
    cut = load_model(folder, dtype="float32", candidates=CANDIDATES).sampler
    nan, inf = float("nan"), float("inf")
    rows = [[0.0, 9e3], [nan, 1.0], [nan, nan], [-inf, -inf], [nan, -inf], [inf, 0.0], [-inf, 2.0], [inf, inf]]
    logits = torch.full((len(rows), 320), -inf)
    logits[:, 200:202] = torch.tensor(rows)
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    draw = Draw(
        slots=zeros,
        positions=zeros,
        temperature=torch.full((len(rows),), temperature),
        top_k=torch.full((len(rows),), top_k, dtype=torch.int32),
        top_p=torch.ones(len(rows)),
        seeds=zeros,
        greedy=not temperature,
        wide=torch.arange(len(rows)) if temperature and not top_k else None,
    )
    wanted = [201, 201, UNUSABLE, UNUSABLE, UNUSABLE, UNUSABLE, 201, UNUSABLE]
    assert Sampler(cut, CpuDevice()).draw(logits, draw).tolist() == wanted
    assert Sampler(None, CpuDevice()).draw(logits, draw).tolist() == wanted
