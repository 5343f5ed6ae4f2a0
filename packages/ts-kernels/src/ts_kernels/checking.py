"""``ts-kernels check``: every kernel that this machine can run against the reference, on a CPU or a GPU."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from . import cases, platform, plugins
from .errors import NoKernelError
from .registry import REGISTRY, Band

# Largest error relative to the largest magnitude of the result. bf16 has 8 bits of mantissa: half a unit in the last
# place is 2^-9 of the value, and two implementations may round to either side of it. fp16 has three bits more.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@dataclass(frozen=True)
class Outcome:
    """One kernel's comparison at one dtype and instruction set."""

    operation: str
    kernel: str
    isa: str
    dtype: torch.dtype
    error: float
    passed: bool
    failure: str = ""
    variant: str = ""

    @property
    def label(self) -> str:
        """The operation and what tells its case apart."""
        return cases.label(self.operation, self.variant)

    def as_json(self) -> dict[str, object]:
        """The fields."""
        return {**asdict(self), "dtype": str(self.dtype).removeprefix("torch.")}

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        verdict = "ok" if self.passed else f"FAILED {self.failure}".rstrip()
        return f"{self.label:32} {self.kernel:10} {self.isa:9} {dtype:9} {self.error:9.2e} {verdict}"


def run(device: torch.device | None = None, impl: str | None = None, only: str = "") -> Iterator[Outcome]:
    """Compare on small sizes; kernels that cannot serve the case are left out. ``impl`` names one to compare alone.

    Interpreted kernels are compared only where they are named: that takes them a hundred times as long.
    """
    plugins.load_all()
    levels = _levels()
    sizes = replace(cases.MINIATURE, rows=3, prompt=21, context=53)
    for dtype in (torch.float32, torch.bfloat16):
        for case in cases.all_cases(sizes, dtype, device=device):
            if not case.operation.startswith(only):
                continue
            wanted = case.run("reference")
            for spec in REGISTRY.kernels(case.operation):
                if spec.name != impl if impl else spec.name == "reference" or spec.band is Band.INTERPRETED:
                    continue
                for isa in levels if spec.name == "native" else ["-"]:
                    yield from _compare(case, spec.name, isa, dtype, wanted)


def _compare(
    case: cases.Case, kernel: str, isa: str, dtype: torch.dtype, wanted: tuple[Tensor, ...]
) -> Iterator[Outcome]:
    before = None
    if isa != "-":
        from . import _native

        before = _native.isa()
        _native.set_isa(isa)
    try:
        error, passed = compare(case, case.run(kernel), wanted, dtype)
        yield Outcome(case.operation, kernel, isa, dtype, error, passed, variant=case.variant)
    except NoKernelError:
        return
    except Exception as error:  # one kernel that breaks must not hide what the others do
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Outcome(case.operation, kernel, isa, dtype, float("inf"), False, failure, case.variant)
    finally:
        if before is not None:
            from . import _native

            _native.set_isa(before)


def compare(
    case: cases.Case, have: tuple[Tensor, ...], wanted: tuple[Tensor, ...], dtype: torch.dtype
) -> tuple[float, bool]:
    """The largest difference, and whether each is within its limit: none where the result is whole numbers."""
    limit = case.roundings * tolerance(dtype, wanted)
    gaps = [difference(mine, want) for mine, want in zip(have, wanted, strict=True)]
    limits = [limit if want.is_floating_point() else 0.0 for want in wanted]
    return max(gaps), all(gap <= most for gap, most in zip(gaps, limits, strict=True))


def tolerance(dtype: torch.dtype, wanted: tuple[Tensor, ...]) -> float:
    """The loosest format among the activations and the results (a bf16 cache, say)."""
    return max(TOLERANCE.get(kind, 0.0) for kind in (dtype, *(t.dtype for t in wanted)))


def difference(have: Tensor, want: Tensor) -> float:
    """Largest absolute difference over the largest magnitude; infinite where a NaN or the shape differs."""
    if have.shape != want.shape or have.dtype != want.dtype:
        return float("inf")
    if have.numel() == 0:
        return 0.0
    wide, truth = have.double(), want.double()
    if not torch.equal(wide.isnan(), truth.isnan()):
        return float("inf")
    gap = float((wide - truth).nan_to_num(0.0).abs().max())
    return gap / max(float(truth.nan_to_num(0.0).abs().max()), 1e-30)


def _levels() -> list[str]:
    if platform.native_error() is not None:
        return []
    platform.configure_native()
    from . import _native

    return list(_native.features())
