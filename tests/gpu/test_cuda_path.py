"""The worker's code path on a CUDA device, against the same on the CPU. ``ci/gpu`` runs these; elsewhere they skip."""

from pathlib import Path

import pytest
import torch
from ts_modeling import load_model
from ts_modeling.testing import write_checkpoint
from ts_runtime.devices import open_device
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import allocate
from ts_runtime.testing import PlanMaker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def greedy(folder: Path, name: str) -> list[list[int]]:
    """Eight greedy tokens of three prompts in one batch."""
    device = open_device(name)
    model = load_model(folder, device=device.torch_device, dtype="float32", kv_dtype="float32")
    pool, cache = allocate(model, device, requested_tokens=1024, max_model_len=128, page_size=16, max_num_seqs=4)
    executor = Executor(model, cache, pool, device=device, max_num_seqs=4, chunk_tokens=128)
    maker = PlanMaker(num_pages=pool.num_pages, page_size=16)
    for slot, size in enumerate((5, 17, 40)):
        maker.admit(slot, list(range(1, size + 1)))
        maker.prefill(slot, size)
    for step in range(8):
        if step:
            for slot in range(3):
                maker.decode(slot)
        plan = maker.plan()
        maker.settle(plan, executor.launch(*plan).wait())
    return [maker.live[slot].tokens for slot in range(3)]


def test_cuda_gives_the_tokens_of_the_cpu(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert greedy(tmp_path, "cuda:0") == greedy(tmp_path, "cpu")
