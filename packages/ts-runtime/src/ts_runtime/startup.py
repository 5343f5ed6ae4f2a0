"""From a configuration to a worker that serves: each phase is reported as it begins."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ts_modeling import LoadedModel, Mesh, kv_spec, load_model, read_config
from ts_protocol.config import WorkerConfig
from ts_protocol.control import ControlSender
from ts_protocol.messages import ROW_SAMPLE, CacheGroup, KvCapacity, SamplingParams, SlotAdmit, StepPlan
from ts_protocol.wire import bitmap_of

from ts_runtime.devices import Device, open_device
from ts_runtime.distributed import meet, place_of
from ts_runtime.executor import Executor
from ts_runtime.kv_pool import PoolSize, allocate, costs_of, longest_sequence
from ts_runtime.sampler import CANDIDATES
from ts_runtime.settings import thread_count

PROGRESS_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker's parts, ready to serve."""

    executor: Executor
    device: Device
    capacity: KvCapacity
    detail: dict[str, str]
    """For the banner."""


def start(config: WorkerConfig, control: ControlSender) -> Started:
    """Load the model, allocate the cache and run a first step.

    Raises:
        WorkerError, ModelingError: it cannot be served; the message is for a person.
    """
    began = time.monotonic()
    device = open_device(config.device)
    threads = thread_count(config.threads, config.world_size)
    torch.set_num_threads(threads)  # the native kernels take the same number when they load
    control.progress("reading config", detail=config.checkpoint)
    model_config, mesh = read_config(Path(config.checkpoint)), place_of(config)
    spec = kv_spec(model_config, mesh, dtype=torch.bfloat16)
    costs_of(spec, page_size=config.page_size, max_num_seqs=config.max_num_seqs)  # refused before weights are read
    max_model_len = longest_sequence(config.max_model_len, model_config.max_position_embeddings)
    if mesh.world > 1:
        control.progress("meeting the other ranks", detail=config.rendezvous)
        mesh = meet(config)
    model, weight_bytes = _load(config, control, device, mesh, max_model_len)
    control.progress("allocating cache")
    pool, cache = allocate(
        model,
        device,
        requested_tokens=config.kv_cache_tokens,
        max_model_len=max_model_len,
        page_size=config.page_size,
        max_num_seqs=config.max_num_seqs,
    )
    executor = Executor(
        model, cache, pool, device=device, max_num_seqs=config.max_num_seqs, chunk_tokens=config.chunk_tokens
    )
    control.progress("warming up")
    warm_up(executor, pool, chunk_tokens=config.chunk_tokens)
    detail = {
        "device": config.device,
        "dtype": str(model.dtype).removeprefix("torch."),
        "kv_dtype": str(model.kv_dtype).removeprefix("torch."),
        "kv_tokens": str(pool.tokens),
        "max_model_len": str(pool.max_model_len),
        "weights_bytes": str(weight_bytes),
        "threads": str(threads),
        "load_seconds": f"{time.monotonic() - began:.1f}",
    }
    capacity = _capacity(pool, config, vocab_size=model.config.vocab_size)
    return Started(executor=executor, device=device, capacity=capacity, detail=detail)


def _capacity(pool: PoolSize, config: WorkerConfig, *, vocab_size: int) -> KvCapacity:
    states = pool.num_states > 0
    return KvCapacity(
        page_size=pool.page_size,
        num_pages=pool.num_pages,
        max_num_seqs=config.max_num_seqs,
        max_model_len=pool.max_model_len,
        vocab_size=vocab_size,
        groups=(CacheGroup("state", pool.num_states, checkpoint_blocks=pool.checkpoint_blocks),) if states else (),
    )


def _load(
    config: WorkerConfig, control: ControlSender, device: Device, mesh: Mesh, max_model_len: int
) -> tuple[LoadedModel, int]:
    """The model and the bytes of its weights; progress goes to ``control`` ten times a second at most."""
    last, total_bytes = 0.0, 0

    def progress(done: int, total: int, module: str) -> None:
        nonlocal last, total_bytes
        total_bytes = total
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS or done == total:
            last = now
            control.progress("loading weights", done, total, module)

    control.progress("loading weights")
    model = load_model(
        config.checkpoint,
        device=device.torch_device,
        dtype=config.dtype,
        kv_dtype=config.kv_cache_dtype,
        load_format=config.load_format,
        mesh=mesh,
        candidates=CANDIDATES if mesh.world > 1 else 0,
        max_positions=max_model_len,
        progress=progress,
    )
    return model, total_bytes


def warm_up(executor: Executor, pool: PoolSize, *, chunk_tokens: int) -> None:
    """A prefill and, where a page holds more than one token, a decode; slot 0 and page 0 are free again afterwards."""
    tokens = max(1, min(chunk_tokens, pool.page_size - 1, pool.max_model_len - 1))
    no_rows, no_tokens, no_pages, no_states = (np.zeros(0, np.int32) for _ in range(4))
    prefill = np.array([[0, 0, tokens, ROW_SAMPLE]], np.int32)
    page = np.array([[0, 0, 0, 0], [0, 1, 0, 0]][: 2 if pool.num_states else 1], np.int32)
    executor.launch(
        StepPlan(0, [SlotAdmit(0, SamplingParams())], []), [prefill, np.zeros(tokens, np.int32), page, no_states]
    ).wait()
    if tokens < min(pool.page_size, pool.max_model_len):
        executor.launch(StepPlan(0, [], [], bitmap_of([0])), [no_rows, no_tokens, no_pages, no_states]).wait()
    executor.launch(StepPlan(0, [], [0]), [no_rows, no_tokens, no_pages, no_states]).wait()
