"""Every argument of every public function, spoilt in every way: an error of this package's, or the right result.

The calls are those of ``ts_kernels.cases``, so an operation that is added there is walked without a line here.
"""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from ts_kernels import (
    ContractError,
    KernelError,
    activation,
    attention,
    cases,
    gemm,
    kv_cache,
    linear_attention,
    mla,
    moe,
    norm,
    platform,
    quantize,
    rope,
    sampling,
)

FAMILIES = (activation, attention, gemm, kv_cache, linear_attention, mla, moe, norm, quantize, rope, sampling)
SIZES = replace(
    cases.MINIATURE, hidden=64, heads=4, inter=64, experts=4, expert_inter=64, top_k=2, vocab=40, rows=3, prompt=5,
    context=21,
)  # fmt: skip
# What no case calls: the makers of tables and masks that take no tensor, or none of the activations'.
OTHERS: dict[str, dict[str, Any]] = {
    "rope.llama3_cos_sin": {
        "dim": 8, "max_positions": 4, "theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_positions": 2,
    },
    "sampling.pack_mask": {"tokens": torch.tensor([1, 3]), "vocab": 40, "allowed": True},
}  # fmt: skip
MADE_THERE = ("rope.cos_sin", "rope.llama3_cos_sin", "rope.yarn_cos_sin")  # on the default device
DTYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.complex64, torch.bool,
    torch.uint8, torch.int8, torch.int32, torch.int64,
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A public function and arguments that it takes; tensors are copied for each use, since some are written to."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, impl: str | None = None, **changed: Any) -> list[Tensor]:
        """The tensors that come out: results, then arguments, which may have been written to."""
        given = {name: _copy(value) for name, value in {**self.arguments, **changed}.items()}
        named = {"impl": impl} if "impl" in inspect.signature(self.function).parameters else {}
        return list(_tensors((self.function(**given, **named), [*given.values()])))


def _copy(value: object) -> object:
    """A copy with the same strides; what has no numbers in memory to copy stays as it is."""
    if not isinstance(value, Tensor) or type(value) is not Tensor or value.is_neg() or value._is_zerotensor():
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(value)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _functions() -> dict[str, tuple[ModuleType, str]]:
    return {
        f"{family.__name__.rpartition('.')[2]}.{name}": (family, name)
        for family in FAMILIES
        for name in family.__all__
        if inspect.isfunction(getattr(family, name)) and getattr(family, name).__module__.startswith(family.__name__)
    }


@functools.cache
def calls() -> dict[str, list[Call]]:
    """Up to two calls of each function, heard while the cases run."""
    heard: dict[str, list[Call]] = {}

    def listen(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def hear(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            kept = {name: _copy(value) for name, value in given.items() if name != "impl"}
            known = heard.setdefault(label, [])
            if len(known) < 2 and set(kept) not in [set(call.arguments) for call in known]:
                known.append(Call(function, kept))
            return function(*args, **kwargs)

        return hear

    with pytest.MonkeyPatch.context() as patch:
        for label, (family, name) in _functions().items():
            patch.setattr(family, name, listen(label, getattr(family, name)))
        for case in cases.all_cases(SIZES):
            case.run("reference")
    for label, arguments in OTHERS.items():
        family, name = _functions()[label]
        heard[label] = [Call(getattr(family, name), arguments)]
    return heard


def spoilt(value: object) -> Iterator[tuple[str, object]]:
    """(What was done, the result) for each way to spoil an argument, but for values of integers."""
    if isinstance(value, Tensor):
        yield from _spoilt_tensor(value)
    elif isinstance(value, bool | int | float):
        yield from ((repr(wrong), wrong) for wrong in (math.nan, math.inf, -math.inf, -1, 0, 1, 2**63))


def _spoilt_tensor(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "a dimension more", x[None]
    yield "no dimension", x.new_zeros(())
    yield "on meta", x.to("meta")
    yield from ((f"as {dtype}", x.to(dtype)) for dtype in DTYPES if dtype != x.dtype)
    if x.is_floating_point():
        yield from ((f"a {wrong}", _with(x, 0, wrong)) for wrong in (math.nan, math.inf))
    for axis, size in enumerate(x.shape):
        yield f"axis {axis} of size 0", x.narrow(axis, 0, 0)
        if size:
            yield f"axis {axis} a line less", x.narrow(axis, 0, size - 1)
            yield f"axis {axis} a line more", torch.cat((x, x.narrow(axis, 0, 1)), axis)
            yield f"axis {axis} gone", x.select(axis, 0)


def _with(x: Tensor, place: int, value: float) -> Tensor:
    changed = x.clone()
    if changed.numel():
        changed.view(-1)[place] = value
    return changed


def spaced(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same numbers in memory of another layout."""
    if x.dim():
        yield "columns spaced", torch.repeat_interleave(x, 2, -1)[..., ::2]
        yield "rows spaced", torch.repeat_interleave(x, 2, 0)[::2]
        yield "transposed", x.transpose(0, -1).contiguous().transpose(0, -1)


def unreadable(x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Tensors whose numbers are not in memory as they are, each with a plain one that equals it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an address of a fake tensor
        yield "fake", FakeTensorMode().from_tensor(x), x
    yield (
        "zeros without memory",
        torch._efficientzerotensor(x.shape, dtype=x.dtype, device=x.device),
        x.new_zeros(x.shape),
    )
    if x.dtype in (torch.float32, torch.float64):
        yield "of a sign to turn", torch.complex(x, x).conj().imag, -x


def out_of_range(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Whole numbers that point nowhere, at the first and the last place."""
    if x.dtype in (torch.int32, torch.int64):
        for value in (-1, 10**6, torch.iinfo(x.dtype).max, torch.iinfo(x.dtype).min):
            yield f"first {value}", _with(x, 0, value)
            yield f"last {value}", _with(x, -1, value)


def close(have: list[Tensor], want: list[Tensor]) -> bool:
    """Equal within what two implementations may differ by; NaN where the other has one."""
    return len(have) == len(want) and all(
        a.shape == b.shape
        and (a.is_meta or torch.allclose(a.to(torch.complex128), b.to(torch.complex128), 2e-2, 2e-2, equal_nan=True))
        for a, b in zip(have, want, strict=True)
    )


def refused_or(call: Call, impl: str | None, name: str, value: object) -> list[Tensor] | None:
    """What comes out, None where it was refused; any other exception is the test's."""
    try:
        return call(impl, **{name: value})
    except KernelError:
        return None


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the block torch makes tensors of this dtype where none is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


each = pytest.mark.parametrize("label", sorted(_functions()))


def test_every_function_is_walked() -> None:
    assert set(calls()) == set(_functions())


@each
def test_what_is_no_tensor_or_number_is_named(label: str) -> None:
    for call in calls()[label]:
        call()
        hints = inspect.signature(call.function).parameters
        for name in call.arguments:
            wrongs: tuple[object, ...] = ("text", [1, 2], None)
            for wrong in wrongs:
                if wrong is None and "None" in str(hints[name].annotation):
                    continue
                if "bool" in str(hints[name].annotation):
                    continue  # everything is true or false in Python
                with pytest.raises(ContractError) as caught:
                    call(None, **{name: wrong})
                error = caught.value
                assert (error.operation, error.argument) == (label, name), f"{name}={wrong!r}: {error}"


@each
def test_what_is_spoilt_is_refused_or_computed(label: str) -> None:
    for call in calls()[label]:
        for name, value in call.arguments.items():
            for what, wrong in spoilt(value):
                try:
                    refused_or(call, None, name, wrong)
                except Exception as error:
                    raise AssertionError(f"{name} {what}") from error


@each
def test_memory_of_another_layout_gives_the_same_or_is_refused(label: str) -> None:
    for call in calls()[label]:
        wanted = call()
        for name, value in call.arguments.items():
            for what, other in spaced(value) if isinstance(value, Tensor) else ():
                have = refused_or(call, None, name, other)
                assert have is None or close(have, wanted), f"{name} {what}"


@each
@pytest.mark.parametrize("mode", ["dtype", "device"])
def test_torchs_defaults_change_nothing(label: str, mode: str) -> None:
    """Buffers have the type and the place that kernels write to, not those of ``torch.set_default_*``."""
    for call in calls()[label]:
        for impl in ("reference", None):
            wanted = call(impl)
            with torch.device("meta") if mode == "device" else default_dtype(torch.bfloat16):
                have = call(impl)
            if mode == "device" and label in MADE_THERE:
                assert all(x.is_meta for x in have)
            else:
                assert [(x.dtype, x.device) for x in have] == [(x.dtype, x.device) for x in wanted]
                assert close(have, wanted)


@each
def test_numbers_that_are_not_in_memory_are_refused_or_right(label: str) -> None:
    for call in calls()[label]:
        call()
        for name, value in call.arguments.items():
            for what, other, plain in unreadable(value) if isinstance(value, Tensor) else ():
                have = refused_or(call, None, name, other)
                if have is not None:
                    assert close(have, call(None, **{name: plain})), f"{name} {what}"


@each
def test_in_debug_mode_the_reference_refuses_or_computes(debug: None, label: str) -> None:
    for call in calls()[label]:
        for name, value in call.arguments.items():
            pointing = out_of_range(value) if isinstance(value, Tensor) else ()
            for what, wrong in (*spoilt(value), *pointing):
                try:
                    refused_or(call, "reference", name, wrong)
                except Exception as error:
                    raise AssertionError(f"{name} {what}") from error


@each
@pytest.mark.skipif(platform.native_error() is not None, reason="native kernels are not built")
def test_native_kernels_refuse_what_points_nowhere_or_agree(label: str) -> None:
    for call in calls()[label]:
        for name, value in call.arguments.items():
            for what, wrong in out_of_range(value) if isinstance(value, Tensor) else ():
                have = refused_or(call, None, name, wrong)
                assert have is None or close(have, call("reference", **{name: wrong})), f"{name} {what}"
