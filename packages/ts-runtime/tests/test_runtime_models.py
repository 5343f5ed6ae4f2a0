"""The executor with models of other attention than the latent one, running states among them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import load_model
from ts_modeling.testing import new_cache, oracle_logits, tiny_config, write_tiny
from ts_runtime.devices import CpuDevice
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize, allocate
from ts_runtime.testing import GREEDY, PlanMaker

PAGE, PAGES, ANSWER, CHUNK = 16, 40, 8, 16
LENGTHS = (45, 17, 33)


class Room:
    """Sizes of a cache, for ``new_cache``."""

    def __init__(self, num_states: int) -> None:
        self.num_pages, self.page_size, self.num_states = PAGES, PAGE, num_states


def serve(executor: Executor, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers to all of them together, prompts in chunks beside decodes."""
    maker = PlanMaker(num_pages=PAGES, page_size=PAGE, num_states=executor.slots.num_states, seed=1)
    for slot, prompt in enumerate(prompts):
        maker.admit(slot, prompt, GREEDY)
    while any(len(maker.live[slot].tokens) < len(prompt) + ANSWER for slot, prompt in enumerate(prompts)):
        room = CHUNK
        for slot, request in maker.live.items():
            if request.sampled:
                maker.decode(slot)
            elif room:
                count = min(room, len(request.tokens) - request.planned)
                maker.prefill(slot, count)
                room -= count
        plan = maker.plan()
        maker.settle(plan, executor.launch(*plan).wait())
    return [maker.live[slot].tokens[len(prompt) : len(prompt) + ANSWER] for slot, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", ["gpt_oss", "llama", "minimax_m2", "qwen3_5", "qwen3_5_moe", "qwen3_moe"])
def test_greedy_tokens_equal_transformers(tmp_path: Path, name: str) -> None:
    """GPT-OSS has windows of 7 tokens, whose keys lie in full attention's pages."""
    reference = write_tiny(tmp_path, tiny_config(name))
    model = load_model(tmp_path, dtype="float32")
    states = 7 if model.kv_spec.bytes_per_state else 0
    cache: Any = new_cache(model, Room(states))  # type: ignore[arg-type]
    pool = PoolSize(num_pages=PAGES, page_size=PAGE, max_model_len=128, num_states=states)
    executor = Executor(model, cache, pool, device=CpuDevice(), max_num_seqs=3, chunk_tokens=CHUNK + 3)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(320, (length,), generator=generator).tolist() for length in LENGTHS]
    for prompt, answer in zip(prompts, serve(executor, prompts), strict=True):
        best = oracle_logits(reference, prompt + answer)[len(prompt) - 1 : -1].argmax(-1)
        assert answer == best.tolist()


def test_the_pool_is_sized_by_what_the_model_declares(tmp_path: Path) -> None:
    """Keys and values of 2 heads of 12 columns, in 3 layers of bf16."""
    write_tiny(tmp_path, tiny_config("gpt_oss"))
    model = load_model(tmp_path)
    assert model.kv_spec.bytes_per_token == 2 * 2 * 12 * 3 * 2
    size, cache = allocate(model, CpuDevice(), requested_tokens=64, max_model_len=64, page_size=PAGE, max_num_seqs=2)
    assert sum(t.nbytes for layer in cache for t in layer) == size.tokens * model.kv_spec.bytes_per_token


def test_states_take_the_place_beside_the_pages_that_was_reckoned(tmp_path: Path) -> None:
    write_tiny(tmp_path, tiny_config("qwen3_5"))
    model = load_model(tmp_path)
    size, cache = allocate(model, CpuDevice(), requested_tokens=640, max_model_len=64, page_size=PAGE, max_num_seqs=2)
    page, state = PAGE * model.kv_spec.bytes_per_token, model.kv_spec.bytes_per_state
    assert size.checkpoint_blocks == -(-state // page)
    assert size.num_states == 2 * 2 + 3 + -(-40 // size.checkpoint_blocks)
    assert sum(t.nbytes for layer in cache for t in layer) == size.num_pages * page + size.num_states * state
