"""Configuration and memory: each refusal names the field and a value that works."""

import os
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of
from ts_modeling import CacheGroup, KvSpec
from ts_protocol.config import WorkerConfig
from ts_runtime import settings
from ts_runtime.devices import GIB, CpuDevice, open_device
from ts_runtime.distributed import place_of
from ts_runtime.errors import CacheMemoryError, SettingsError
from ts_runtime.kv_pool import Costs, allocate, costs_of, longest_sequence, size_pool

FIELDS: dict[str, Any] = {
    "rank": 0,
    "world_size": 1,
    "checkpoint": "folder",
    "device": "cpu",
    "dtype": "auto",
    "kv_cache_dtype": "auto",
    "load_format": "auto",
    "scheduler_address": "ipc://a",
    "control_address": "ipc://b",
    "fingerprint": "f",
    "page_size": 16,
    "kv_cache_tokens": 0,
    "max_num_seqs": 4,
    "max_model_len": 0,
    "chunk_tokens": 64,
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "worker.json"
    path.write_bytes(msgspec.json.encode({**FIELDS, **changes}))
    return path


def test_a_configuration_reads_back(tmp_path: Path) -> None:
    assert settings.read_config(write(tmp_path)) == WorkerConfig(**FIELDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_size": 0}, "page_size = 0: give at least 1"),
        ({"chunk_tokens": 0}, "chunk_tokens = 0"),
        ({"kv_cache_tokens": -1}, "kv_cache_tokens = -1: give 0"),
        ({"world_size": 0}, "world_size = 0: give at least 1"),
        ({"rank": 1}, "rank = 1: world_size = 1; count ranks from 0"),
        ({"world_size": 2, "mesh": "attn_tp=2,moe_tp=2"}, "rendezvous = '': give HOST:PORT"),
        ({"world_size": 2, "rendezvous": "there"}, "rendezvous = 'there': give HOST:PORT"),
        ({"device": "tpu"}, "device = 'tpu': give cpu or cuda:N"),
        ({"device": 3}, r"Expected `str`, got `int` - at `\$.device`"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings.read_config(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("", "it has 1 ranks, world_size is 2"),
        ("attn_tp=4,moe_tp=4", "it has 4 ranks, world_size is 2"),
        ("attn_dp=2,moe_ep=2", "all ranks are sent the same rows; give attn_tp, not attn_dp"),
    ],
)
def test_a_mesh_that_cannot_be_served_is_refused(mesh: str, message: str) -> None:
    config = WorkerConfig(**{**FIELDS, "world_size": 2, "mesh": mesh, "rendezvous": "127.0.0.1:29500"})
    with pytest.raises(SettingsError, match=re.escape(f"mesh = {mesh!r}: {message}")):
        place_of(config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.json: No such file"):
        settings.read_config(tmp_path / "nothing.json")


def test_threads_are_the_physical_cores_of_this_process() -> None:
    assert settings.thread_count(3) == 3
    assert 1 <= settings.thread_count(0) <= len(os.sched_getaffinity(0))


def test_threads_respect_a_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert settings._quota_cores(tmp_path / "cpu.max") == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert settings._quota_cores(tmp_path / "cpu.max") == os.cpu_count()


def test_free_memory_is_what_the_machine_has_at_most() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < settings.free_host_memory() <= total


def test_a_missing_device_is_named() -> None:
    assert isinstance(open_device("cpu"), CpuDevice)
    with pytest.raises(SettingsError, match=r"cuda:\d+"):
        open_device("cuda:63")


def size(**changes: Any) -> Any:
    given = {
        "requested_tokens": 0,
        "max_model_len": 1000,
        "page_size": 16,
        "costs": Costs(page=16 << 20),
        "free": 8 * GIB,
        "budget": 2 * GIB,
    }
    return size_pool(**{**given, **changes})


def test_an_automatic_pool_takes_the_budget_and_one_sequence_at_least() -> None:
    assert size().tokens == 2048
    assert size(max_model_len=5000).num_pages == 313
    assert size(max_model_len=5000).max_model_len == 5000


def test_a_requested_pool_is_kept_and_bounds_the_sequences() -> None:
    pool = size(requested_tokens=100)
    assert (pool.num_pages, pool.max_model_len) == (7, 112)
    assert size(requested_tokens=4000).max_model_len == 1000


@pytest.mark.parametrize("changes", [{"requested_tokens": 9000}, {"max_model_len": 9000}])
def test_memory_errors_name_a_value_that_works(changes: dict[str, int]) -> None:
    with pytest.raises(CacheMemoryError) as caught:
        size(**changes)
    assert re.match(r"(kv_cache_tokens|max_model_len) = 9000 needs 8\.80 GiB", str(caught.value))
    found = re.search(r"(\d+) tokens fit", str(caught.value))
    assert found is not None
    works = int(found[1])
    assert size(**{next(iter(changes)): works}).tokens >= works
    with pytest.raises(CacheMemoryError):
        size(**{next(iter(changes)): works + 1})


@settings_of(max_examples=200)
@given(page=st.integers(1, 40), state=st.integers(0, 300), working=st.integers(1, 20), free=st.integers(0, 20_000))
def test_pages_and_their_states_fill_the_memory_and_no_more(page: int, state: int, working: int, free: int) -> None:
    costs = Costs(page=page, state=state, working_states=working if state else 0)
    pages = costs.pages(free)
    assert costs.of(pages) <= free or (pages == 0 and free < costs.of(0))
    assert costs.of(pages + 1) > free


def test_states_that_do_not_fit_name_a_number_of_requests_that_does() -> None:
    costs = Costs(page=16 << 20, state=GIB, working_states=2 * 16 + 3)
    with pytest.raises(CacheMemoryError, match=r"need 35\.00 GiB and 8\.00 GiB are free; 1 requests fit$"):
        size(costs=costs)
    assert size(costs=Costs(page=16 << 20, state=GIB, working_states=2 * 1 + 3)).num_states == 6
    with pytest.raises(CacheMemoryError, match="not even one request fits"):
        size(costs=costs, free=5 * GIB)


def test_a_model_without_pages_is_refused() -> None:
    state = CacheGroup(kind="state", layers=(0,), shapes=((4,),), dtype=torch.float32)
    with pytest.raises(SettingsError, match="no layer with full attention"):
        costs_of(KvSpec((state,)), page_size=16, max_num_seqs=4)


def test_a_sequence_beyond_the_checkpoint_is_refused() -> None:
    assert longest_sequence(0, 256) == 256
    assert longest_sequence(100, 256) == 100
    with pytest.raises(SettingsError, match="max_model_len = 257: the checkpoint has 256 positions"):
        longest_sequence(257, 256)


def test_a_failed_allocation_is_one_sentence_with_a_smaller_value() -> None:
    class Full:
        class kv_spec:
            bytes_per_token, bytes_per_state = 4, 0

        def new_cache(self, num_pages: int, page_size: int, num_states: int) -> list[torch.Tensor]:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory")

    model: Any = Full()
    with pytest.raises(CacheMemoryError, match=r"try kv_cache_tokens = 512$"):
        allocate(model, CpuDevice(), requested_tokens=1024, max_model_len=64, page_size=16, max_num_seqs=4)
