"""The executor with models of other attention than the latent one, and a model whose states it does not hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ts_modeling import load_model
from ts_modeling.testing import new_cache, oracle_logits, tiny_config, write_tiny
from ts_protocol.config import WorkerConfig
from ts_runtime.devices import CpuDevice
from ts_runtime.errors import SettingsError
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize, allocate
from ts_runtime.startup import start
from ts_runtime.testing import GREEDY, PlanMaker

PAGE, PAGES, ANSWER, CHUNK = 16, 40, 8, 16
LENGTHS = (45, 17, 33)


class Room:
    """Pages and pages' size of a cache without state slots, for ``new_cache``."""

    num_pages, page_size, num_states = PAGES, PAGE, 0


def serve(executor: Executor, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers to all of them together, prompts in chunks beside decodes."""
    maker = PlanMaker(num_pages=PAGES, page_size=PAGE, seed=1)
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


@pytest.mark.parametrize("name", ["gpt_oss", "llama", "minimax_m2", "qwen3_moe"])
def test_greedy_tokens_equal_transformers(tmp_path: Path, name: str) -> None:
    """GPT-OSS has windows of 7 tokens, whose keys lie in full attention's pages."""
    reference = write_tiny(tmp_path, tiny_config(name))
    model = load_model(tmp_path, dtype="float32")
    cache: Any = new_cache(model, Room())  # type: ignore[arg-type]
    pool = PoolSize(num_pages=PAGES, page_size=PAGE, max_model_len=128)
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
    size, cache = allocate(model, CpuDevice(), requested_tokens=64, max_model_len=64, page_size=PAGE)
    assert sum(t.nbytes for layer in cache for t in layer) == size.tokens * model.kv_spec.bytes_per_token


def test_running_states_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    write_tiny(tmp_path, tiny_config("qwen3_5"))
    (tmp_path / "model.safetensors").unlink()

    class Silent:
        def progress(self, phase: str, *numbers: int, detail: str = "") -> None:
            assert phase == "reading config"

    config = WorkerConfig(
        rank=0,
        world_size=1,
        checkpoint=str(tmp_path),
        device="cpu",
        dtype="float32",
        kv_cache_dtype="auto",
        load_format="auto",
        scheduler_address="",
        control_address="",
        fingerprint="",
        page_size=PAGE,
        kv_cache_tokens=512,
        max_num_seqs=4,
        max_model_len=0,
        chunk_tokens=64,
        threads=1,
    )
    with pytest.raises(SettingsError, match="layers with a running state"):
        start(config, Silent())  # type: ignore[arg-type]
