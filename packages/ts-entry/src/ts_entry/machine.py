"""What this machine has, asked without loading torch: devices and their free memory, and free disk."""

import ctypes
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ts_entry.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices that serve (``cpu`` or ``cuda``), what they are called, and the bytes that are free on all."""

    device: Literal["cpu", "cuda"]
    title: str
    free_memory: int
    idle_gpu: str | None = None
    """A GPU that ``auto`` leaves alone."""

    def worker_device(self, rank: int) -> str:
        """As ``WorkerConfig.device`` wants it: a GPU for each rank; the CPU is shared."""
        return "cpu" if self.device == "cpu" else f"cuda:{rank}"


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    free_memory: int


def choose_machine(device: str, workers: int = 1) -> Machine:
    """The devices for ``--device`` and ``--tensor-parallel-size``.

    ``auto`` is the CPU, whose kernels this release has; a GPU runs the torch reference.

    Raises:
        UsageError: ``cuda`` was asked for and there is none, or fewer than workers.
    """
    gpus = [] if device == "cpu" else find_gpus()
    if device != "cuda":
        idle = gpus[0].name if gpus else None
        return Machine(device="cpu", title="CPU", free_memory=free_host_memory(), idle_gpu=idle)
    if not gpus:
        raise UsageError("--device cuda: no NVIDIA GPU answers on this machine; use --device cpu")
    if len(gpus) < workers:
        raise UsageError(f"--tensor-parallel-size {workers}: this machine has {len(gpus)} GPUs")
    title = gpus[0].name if workers == 1 else f"{workers} x {gpus[0].name}"
    return Machine(device="cuda", title=title, free_memory=workers * min(gpu.free_memory for gpu in gpus[:workers]))


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find_gpus() -> list[Gpu]:
    """By NVIDIA's management library, which needs no CUDA context; none where it or one of them does not answer."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = [_gpu(nvml, index) for index in range(count.value)]
        return [gpu for gpu in found if gpu is not None] if all(found) else []
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return None
    name, memory = ctypes.create_string_buffer(96), _NvmlMemory()
    if nvml.nvmlDeviceGetName(handle, name, 96) != 0 or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        return None
    return Gpu(name.value.decode(), int(memory.free))


def free_host_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a new process can take: of the machine, and of the control group where one limits it."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE) if meminfo.is_file() else None
    free = int(found[1]) * 1024 if found else 1 << 62
    limit, current = group / "memory.max", group / "memory.current"
    if limit.is_file() and current.is_file() and limit.read_text().strip() != "max":
        free = min(free, max(0, int(limit.read_text()) - int(current.read_text())))
    return free


def free_disk(path: Path) -> int:
    """Bytes that can be written below ``path``, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def size_text(count: int) -> str:
    """Bytes for a person: ``594.6 GB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
