"""What this machine can run: devices, architectures, CPU features, and the native extension."""

import functools
import importlib
import importlib.util
import logging
import re
from dataclasses import dataclass

import torch

from . import settings
from .errors import SelectionError, SettingsError

_log = logging.getLogger("ts_kernels")
NATIVE_FEATURE = "native"
TRITON_FEATURE = "triton"
E4M3_FEATURE = "triton e4m3"  # Triton compiles loads and conversions of float8_e4m3fn
# NVIDIA: compute capabilities of one digit after the major number, from Maxwell's; "a" and "f" are the same hardware.
# AMD: the major number, one digit for the minor, one for the stepping, from Vega's.
_ARCHITECTURE = re.compile(r"sm_([5-9][0-9]|1[0-9][0-9])[af]?|gfx((?:9|1[0-9])[0-9a-f]{2})")
OLDEST_TRITON_ARCH = 80  # of NVIDIA's, below which Triton does not compile (its README, "Compatibility")
OLDEST_E4M3_ARCH = 89  # of NVIDIA's: below, Triton refuses the type fp8e4nv (AMD's convert it in software)
KB = 1024
# Shared memory that one block may have.
# NVIDIA: CUDA C Programming Guide, technical specifications per compute capability, less the 1 KB a block reserves.
# AMD: the LDS of a compute unit (CDNA 3 and CDNA 4 instruction set manuals).
SHARED_LIMIT = {
    "sm_80": 163 * KB,
    "sm_89": 99 * KB,
    "sm_90": 227 * KB,
    "sm_100": 227 * KB,
    "sm_103": 227 * KB,
    "sm_120": 99 * KB,
    "gfx942": 64 * KB,
    "gfx950": 160 * KB,
}


@dataclass(frozen=True)
class DeviceInfo:
    """A device as selection sees it.

    ``arch`` is the CUDA compute capability as 10 * major + minor (90 for sm_90), or the number of an AMD architecture
    read as hexadecimal (0x942 for gfx942); 0 on a CPU. ``vendor`` is "nvidia", "amd" or "" on a CPU. A feature is what
    a kernel may need besides: "native" and instruction sets on a CPU, "triton" where Triton kernels run, "triton e4m3"
    where those may name float8_e4m3fn.
    """

    type: str
    arch: int = 0
    features: frozenset[str] = frozenset()
    vendor: str = ""

    @property
    def arch_name(self) -> str:
        """The architecture as its vendor writes it: "sm_90", "gfx942", "" on a CPU."""
        return {"nvidia": f"sm_{self.arch}", "amd": f"gfx{self.arch:x}"}.get(self.vendor, "")

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that one block may have; of an architecture that is not known the vendor's least."""
        least = 64 * KB if self.vendor == "amd" else 99 * KB
        return SHARED_LIMIT.get(self.arch_name, least) if self.type == "cuda" else SHARED_LIMIT["sm_90"]

    @property
    def products_from_shared(self) -> bool:
        """Whether matrix products read shared memory themselves (wgmma, tcgen05); else registers hold both operands."""
        return self.vendor == "nvidia" and 90 <= self.arch < 120

    def stages(self, wanted: int, tile: int, beside: int = 0) -> int:
        """At most ``wanted`` stages of a pipeline whose loads of ``tile`` bytes fit, with ``beside`` bytes besides.

        Triton keeps a buffer less than there are stages, but where products read the buffers while the next loads run,
        and on gfx950, whose loads go there directly.
        """
        buffers = max(self.shared_limit - beside, 0) // tile
        each = self.products_from_shared or self.arch_name == "gfx950"
        return max(min(wanted, buffers if each else buffers + 1), 1)


@functools.cache
def interpreting() -> bool:
    """Whether Triton kernels are interpreted on the CPU in this process (TRITON_INTERPRET=1)."""
    return settings.interpret()


@functools.cache
def triton_error() -> str | None:
    """Why Triton is absent, or None where it is installed."""
    return None if importlib.util.find_spec("triton") else "triton is not installed"


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
    """Set the extension's threads and instruction set from the settings; gives the instruction sets it can run.

    Raises ``SettingsError`` for an instruction set that this machine does not have.
    """
    from . import _native

    chosen = settings.current()
    try:
        _native.set_isa(chosen.isa)
    except ValueError as error:
        raise SettingsError(f"TS_KERNELS_ISA: {error}") from None
    _native.set_threads(chosen.threads or min(torch.get_num_threads(), settings.MOST_THREADS))
    return tuple(_native.features())


@dataclass(frozen=True)
class InstructionSets:
    """Those that the native extension can use here, the chosen one, why AMX is not one, and why there is no extension.

    Whatever does not apply is empty. As text it is one line.
    """

    usable: tuple[str, ...] = ()
    in_use: str = ""
    no_amx: str = ""
    not_built: str = ""

    def __str__(self) -> str:
        if self.not_built:
            return f"native kernels: not built ({self.not_built})"
        without = f"; no amx: {self.no_amx}" if self.no_amx else ""
        return f"native kernels: {', '.join(self.usable)}; in use: {self.in_use}{without}"


def instruction_sets() -> InstructionSets:
    """What the native extension can use on this machine. Raises ``SettingsError``."""
    reason = native_error()
    if reason is not None:
        return InstructionSets(not_built=reason)
    usable = configure_native()
    from . import _native

    return InstructionSets(usable, _native.isa(), _native.amx_refusal())


def described(arch: str) -> DeviceInfo:
    """A GPU of architecture ``arch`` ("sm_90", "gfx942") as selection would see it, with Triton; at hand or not.

    Raises ``SelectionError`` for what is no architecture.
    """
    found = _ARCHITECTURE.fullmatch(arch)
    if found is None:
        raise SelectionError(
            f"--arch: {arch!r} is not an architecture such as sm_90 or gfx942 (NVIDIA's from sm_50, AMD's from gfx900)"
        )
    if found[1]:
        return _nvidia(int(found[1]), installed=True)
    return DeviceInfo("cuda", int(found[2], 16), _triton_features(installed=True), "amd")


def _nvidia(arch: int, *, installed: bool) -> DeviceInfo:
    """A GPU of NVIDIA's; ``installed``: whether Triton is."""
    features = _triton_features(installed=installed and arch >= OLDEST_TRITON_ARCH)
    return DeviceInfo("cuda", arch, features - {E4M3_FEATURE} if arch < OLDEST_E4M3_ARCH else features, "nvidia")


def _triton_features(*, installed: bool) -> frozenset[str]:
    return frozenset({TRITON_FEATURE, E4M3_FEATURE} if installed else ())


def why_missing(feature: str, device: DeviceInfo) -> str:
    """What a device lacks for ``feature``, as far as it is known; empty where "it is missing" says it all."""
    if feature == NATIVE_FEATURE and device.type == "cpu":
        return native_error() or ""
    if feature == TRITON_FEATURE:
        cpu = "on a CPU Triton runs in its interpreter alone (TRITON_INTERPRET=1)" if device.type == "cpu" else ""
        old = f"Triton compiles for sm_{OLDEST_TRITON_ARCH} and newer" if device.vendor == "nvidia" else ""
        return triton_error() or cpu or old
    if feature == E4M3_FEATURE and TRITON_FEATURE in device.features:
        return f"Triton compiles float8_e4m3fn for sm_{OLDEST_E4M3_ARCH} and newer"
    return ""


@functools.cache
def device_info(device: torch.device) -> DeviceInfo:
    """Describe ``device``; the native extension and Triton (interpreted, on a CPU) count as features."""
    triton = _triton_features(installed=triton_error() is None)
    if device.type == "cuda" and torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return DeviceInfo("cuda", int(name.removeprefix("gfx"), 16), triton, "amd")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return _nvidia(10 * major + minor, installed=triton_error() is None)
    if device.type != "cpu":
        return DeviceInfo(device.type)
    interpreted = triton if interpreting() else frozenset()
    reason = native_error()
    if reason is not None:
        _log.warning(
            "the native CPU kernels are not built (%s); the torch reference serves, which is slow. "
            "Install ts-kernels where a C++20 compiler is at hand to build them",
            reason,
        )
        return DeviceInfo("cpu", features=interpreted)
    return DeviceInfo("cpu", features=interpreted | {NATIVE_FEATURE, *configure_native()})
