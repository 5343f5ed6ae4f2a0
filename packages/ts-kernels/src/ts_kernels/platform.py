"""What this machine can run: devices, architectures, CPU features, and the native extension."""

import functools
import importlib
import logging
from dataclasses import dataclass

import torch

from . import settings

_log = logging.getLogger("ts_kernels")
NATIVE_FEATURE = "native"


@dataclass(frozen=True)
class DeviceInfo:
    """A device as selection sees it. ``arch`` is the CUDA compute capability as 10 * major + minor; 0 on a CPU."""

    type: str
    arch: int = 0
    features: frozenset[str] = frozenset()


@functools.cache
def native_error() -> str | None:
    """Why the native extension is absent, or None where it loads."""
    try:
        importlib.import_module("ts_kernels._native")
    except ImportError as error:
        return str(error)
    return None


@functools.cache
def configure_native() -> tuple[str, ...]:
    """Set the extension's threads and instruction set from the settings; gives the instruction sets it can run."""
    from . import _native

    chosen = settings.current()
    _native.set_isa(chosen.isa)
    _native.set_threads(chosen.threads or torch.get_num_threads())
    return tuple(_native.features())


def instruction_sets() -> str:
    """One line: the instruction sets that the native extension can use here, the chosen one, and why AMX is not one."""
    reason = native_error()
    if reason is not None:
        return f"native kernels: not built ({reason})"
    usable = configure_native()
    from . import _native

    refusal = _native.amx_refusal()
    without = f"; no amx: {refusal}" if refusal else ""
    return f"native kernels: {', '.join(usable)}; in use: {_native.isa()}{without}"


@functools.cache
def device_info(device: torch.device) -> DeviceInfo:
    """Describe ``device``; the native extension counts as a CPU feature."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return DeviceInfo("cuda", 10 * major + minor)
    if device.type != "cpu":
        return DeviceInfo(device.type)
    reason = native_error()
    if reason is not None:
        _log.warning(
            "the native CPU kernels are not built (%s); the torch reference serves, which is slow. "
            "Install ts-kernels where a C++20 compiler is at hand to build them",
            reason,
        )
        return DeviceInfo("cpu")
    return DeviceInfo("cpu", features=frozenset((NATIVE_FEATURE, *configure_native())))
