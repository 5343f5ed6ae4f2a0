"""The kernels of flash-linear-attention: what they are given, and, where fla-core is installed, what they compute.

Its recurrent kernel runs in Triton's interpreter. The chunked one does not (its autotuner times on a device): its
arguments are bound to its signature, and the recurrent one, which documents the same, stands in for its results.
    TRITON_INTERPRET=1 uv run --with fla-core==0.6.0 pytest packages/ts-kernels/tests/test_kernels_fla.py
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import platform, plugins
from ts_kernels.ops.linear_attention import reference
from ts_kernels.registry import REGISTRY, Band, KernelSpec
from ts_kernels.selection import OPERATIONS
from ts_kernels.vendor import fla

MODULE = "fla.ops.gated_delta_rule"
NAMES = ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")


def documented(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *, scale: float, initial_state: Tensor, **more: Any
) -> tuple[Tensor, Tensor]:
    """What both functions document, for one batch of rows one after another and gates as they come."""
    flags = ("output_final_state", "use_qk_l2norm_in_kernel", "use_beta_sigmoid_in_kernel", "use_gate_in_kernel")
    assert all(more.pop(flag) for flag in flags)
    gates, cu_q = (more.pop("A_log"), more.pop("dt_bias")), more.pop("cu_seqlens")
    assert not more
    assert cu_q.dtype == torch.int64
    assert all(x.is_contiguous() for x in (q, k, v, g, beta))
    states, rows = initial_state.clone(), torch.arange(len(initial_state))
    out = reference.gated_delta(q[0], k[0], v[0], g[0], beta[0], *gates, states, rows, cu_q, scale)
    return out[None], states


@pytest.fixture(params=["documented", "installed"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the kernels call: a stand-in, and the real one."""
    if request.param == "documented":
        stand_in = ModuleType(MODULE)
        for name in NAMES:
            setattr(stand_in, name, documented)
        monkeypatch.setattr(fla, "_module", lambda: stand_in)
    else:
        real = installed()
        monkeypatch.setattr(real, NAMES[0], getattr(real, NAMES[1]))


def installed() -> ModuleType:
    if not plugins.installed("fla"):
        pytest.skip("fla-core is not installed")
    if not platform.interpreting():
        pytest.skip("its kernels run on a CPU in the interpreter alone (TRITON_INTERPRET=1)")
    return importlib.import_module(MODULE)


def batch(lengths: list[int]) -> tuple[Any, Tensor, Tensor, Tensor]:
    """(q, k, v, a, b, a_log, dt_bias), q a slice of something wider; states, slots whose last is padding, cu_q."""
    make = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make)

    tokens, rows = sum(lengths), len(lengths)
    wide = draw(tokens, 2, 48)
    inputs = (
        wide[..., :32],
        draw(tokens, 2, 32),
        draw(tokens, 4, 16),
        draw(tokens, 4),
        draw(tokens, 4),
        draw(4),
        draw(4),
    )
    slots = torch.tensor([4, 0, 2, -1][:rows])
    slots[-1] = -1
    cu_q = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return inputs, draw(5, 4, 32, 16), slots, cu_q


@pytest.mark.filterwarnings("ignore")  # of another package, about devices that are not here
@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("step", [False, True])
def test_rows_states_and_padding(step: bool, assert_close: Callable[..., None]) -> None:
    lengths = [1, 1, 1] if step else [5, 0, 9, 3]
    inputs, states, slots, cu_q = batch(lengths)
    mine, theirs = states.clone(), states.clone()
    if step:
        want = reference.gated_delta_step(*inputs, mine, slots, 0.2)
        have = fla.gated_delta_step(*inputs, theirs, slots, 0.2)
    else:
        fresh = torch.tensor([True, False, False, False])
        want = reference.gated_delta(*inputs, mine, slots, cu_q, 0.2, fresh)
        have = fla.gated_delta(*inputs, theirs, slots, cu_q, 0.2, fresh)
    assert_close(have, want)
    assert_close(theirs, mine)
    assert torch.equal(theirs[[1, 3]], states[[1, 3]]), "of slots that no row has"
    assert not have[-1].any(), "of padding"


@pytest.mark.usefixtures("module")
def test_no_tokens() -> None:
    inputs, states, slots, _ = batch([0, 0])
    assert fla.gated_delta(*inputs, states, slots, torch.zeros(3, dtype=torch.int32), 0.2).shape == (0, 4, 16)


@pytest.mark.filterwarnings("ignore")
def test_what_is_given_is_what_they_take() -> None:
    given: dict[str, Any] = {}

    def take(q: Tensor, k: Tensor, v: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        given.update(named)
        return documented(q, k, v, **named)

    inputs, states, slots, cu_q = batch([2, 1])
    fla._run(take, inputs[:5], *inputs[5:], states, slots, cu_q, 0.2, None)
    real = installed()
    for name in NAMES:
        function = getattr(real, name)
        inspect.signature(function).bind(*inputs[:3], **given)
        assert all(argument in function.__doc__ for argument in given), name


def test_absent_without_harm() -> None:
    if plugins.installed("fla"):
        pytest.skip("fla-core is installed")
    plugins.load_all()
    assert not [spec for name in OPERATIONS for spec in REGISTRY.kernels(name) if spec.name == fla.NAME]
    assert "fla" not in sys.modules


def test_it_serves_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    registrar = plugins.Registrar(REGISTRY, "fla")
    monkeypatch.setattr(fla, "installed", lambda package: True)
    fla.register(registrar)
    specs: list[KernelSpec] = registrar.specs
    assert {spec.operation for spec in specs} == {"linear_attention.gated_delta", "linear_attention.gated_delta_step"}
    for spec in specs:
        assert spec.band is Band.UNPROVEN
        operation = OPERATIONS[spec.operation]
        sizes = dict.fromkeys(operation.info.dims, 4)
        for width, wrong in ((128, []), (512, ["needs K at most 256"])):
            dims = tuple({**sizes, "K": width}.values())
            query = operation.query(platform.described("sm_90"), (torch.bfloat16, torch.bfloat16), dims)
            assert [told.partition(",")[0] for told in spec.objections(query)] == wrong
