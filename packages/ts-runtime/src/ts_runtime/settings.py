"""From the launcher's ``WorkerConfig`` and the machine to checked values. The only place that asks the machine."""

import os
import re
from pathlib import Path
from typing import Final

import msgspec
from ts_protocol.config import WorkerConfig

from ts_runtime.errors import SettingsError

_POSITIVE: Final = ("world_size", "page_size", "max_num_seqs", "chunk_tokens")
_NOT_NEGATIVE: Final = ("kv_cache_tokens", "max_model_len", "threads", "rank")
_DEVICE: Final = re.compile(r"cpu|cuda:\d+")
_MEETING: Final = re.compile(r"\S+:\d+")


def read_config(path: Path) -> WorkerConfig:
    """The configuration of one worker from its JSON file, checked.

    Raises:
        SettingsError: the file cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    except OSError as error:
        raise SettingsError(f"cannot read the worker configuration {path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise SettingsError(f"worker configuration {path}: {error}") from None
    check(config)
    return config


def check(config: WorkerConfig) -> None:
    """Raise ``SettingsError`` naming the first field that is out of range."""
    for field in _POSITIVE:
        if getattr(config, field) < 1:
            raise SettingsError(f"{field} = {getattr(config, field)}: give at least 1")
    for field in _NOT_NEGATIVE:
        if getattr(config, field) < 0:
            raise SettingsError(f"{field} = {getattr(config, field)}: give 0 (automatic) or more")
    if config.rank >= config.world_size:
        raise SettingsError(f"rank = {config.rank}: world_size = {config.world_size}; count ranks from 0")
    if config.world_size > 1 and not _MEETING.fullmatch(config.rendezvous):
        raise SettingsError(f"rendezvous = {config.rendezvous!r}: give HOST:PORT, the same to all ranks")
    if not _DEVICE.fullmatch(config.device):
        raise SettingsError(f"device = {config.device!r}: give cpu or cuda:N")


def thread_count(requested: int, workers: int = 1) -> int:
    """CPU threads of the forward pass: as requested, or this worker's share of the physical cores that it may use."""
    if requested:
        return requested
    return max(1, min(len(_physical_cores()), _quota_cores()) // workers)


def _physical_cores() -> set[str]:
    """One entry for each core; hardware threads of the same core share theirs."""
    if not hasattr(os, "sched_getaffinity"):
        return {str(core) for core in range(os.cpu_count() or 1)}
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return cores


def _quota_cores(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole cores that the control group allows."""
    if cpu_max.is_file():
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            return max(1, int(quota) // int(period))
    return os.cpu_count() or 1


def free_host_memory() -> int:
    """Bytes that this process can still take: of the machine and of its control group."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else free
    group = Path("/sys/fs/cgroup")
    limit, current = group / "memory.max", group / "memory.current"
    if limit.is_file() and current.is_file() and limit.read_text().strip() != "max":
        free = min(free, max(0, int(limit.read_text()) - int(current.read_text())))
    return free
