"""Collectives in place: only where nothing that is read later may share the memory."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ts_modeling import Mesh
from ts_modeling.compiler import Costs, Plans, Policy, compile_plans
from ts_modeling.compiler.memory import writable
from ts_modeling.compiler.program import collective_of
from ts_modeling.layers import Leaf, SelectRows
from ts_modeling.placement import SAMPLES, TOKENS, Boundary, Dim, Partial, Replicate, Spec
from ts_modeling.registry import build, config_from
from ts_modeling.testing import text_config, tiny_config
from ts_modeling.testing.simulated import run_simulated

HIDDEN = Dim("hidden", 8)
FREE, WHOLE = Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN, attn_tp=Replicate())
X = torch.arange(24.0).view(3, 8)
POLICIES = pytest.mark.parametrize("policy", [Policy(), Policy(cut_tokens=True)], ids=["whole", "cut"])


class Half(Leaf):
    """An addend of what it takes."""

    memory = "own"

    def __init__(self) -> None:
        super().__init__()
        self.boundary = Boundary((WHOLE,), (Spec(TOKENS, HIDDEN, attn_tp=Partial()),))

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


class Step(Leaf):
    def __init__(self, spec: Spec, forward: Any, *, linear: bool = False) -> None:
        super().__init__()
        self.boundary, self.made = Boundary((spec,), (spec,), linear=linear), forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.made(x)
        return out


class Cast(nn.Module):
    """``z`` is ``y`` under another name; each is reduced, ``first`` before the other."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.row, self.cast = Half(), Step(FREE, lambda x: x.to(torch.float32), linear=True)
        self.a, self.b, self.first = Step(WHOLE, lambda x: x * 1), Step(WHOLE, lambda x: x * 10), first

    def forward(self, batch: Any) -> Any:
        y = self.row(batch.x)
        z = self.cast(y)
        if self.first == "z":
            return self.a(z) + self.b(y)
        a = self.a(y)
        return a + self.b(z)


class Kept(nn.Module):
    """Addends that the module holds on to, as it would a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Half()
        self.held.memory = "any"  # type: ignore[misc]
        self.held.forward = lambda x: self.table  # type: ignore[method-assign]
        self.table = X / 2

    def forward(self, batch: Any) -> Any:
        return self.held(batch.x)


class Selected(nn.Module):
    """All rows are selected, which is the argument itself, and the argument is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.select, self.again = Half(), SelectRows(HIDDEN), SelectRows(HIDDEN)
        whole = Spec(SAMPLES, HIDDEN, attn_tp=Replicate())
        self.a, self.b = Step(whole, lambda x: x * 1), Step(whole, lambda x: x * 10)

    def forward(self, batch: Any) -> Any:
        y = self.row(batch.x)
        return self.a(self.select(y, batch.indices)) + self.b(self.again(y, batch.indices))


def compiled(model: nn.Module, policy: Policy, rank: int = 0) -> Plans:
    gives = Spec(SAMPLES, HIDDEN) if isinstance(model, Selected) else FREE
    mesh = Mesh(2, {"attn_tp": 2}, rank)
    return compile_plans(model, mesh, inputs={"batch.x": FREE}, gives=gives, costs=Costs(only=policy))


@POLICIES
@pytest.mark.parametrize("make", [lambda: Cast("z"), lambda: Cast("y"), Selected], ids=["z", "y", "selected"])
def test_a_value_under_two_names_is_reduced_twice_and_written_to_once_at_most(make: Any, policy: Policy) -> None:
    plans = [compiled(make(), policy, rank) for rank in range(2)]
    batches = [SimpleNamespace(x=X.clone(), tokens=X[:, 0], dp_sizes=(), indices=None) for _ in plans]
    for out in run_simulated(plans, batches):
        torch.testing.assert_close(out, 11 * X)


@POLICIES
def test_what_a_module_keeps_is_not_written_to(policy: Policy) -> None:
    models = [Kept(), Kept()]
    plans = [compiled(model, policy, rank) for rank, model in enumerate(models)]
    for _ in range(2):
        batches = [SimpleNamespace(x=X.clone(), tokens=X[:, 0], dp_sizes=()) for _ in plans]
        for out in run_simulated(plans, batches):
            torch.testing.assert_close(out, X)


@pytest.mark.parametrize("model", ["kimi", "llama", "minimax_m2", "gpt_oss", "qwen3_5_moe"])
def test_all_reductions_of_a_model_are_in_place(model: str) -> None:
    """What the layers declare saves a copy of the activations at each."""
    config = config_from(text_config(int4=False) if model == "kimi" else tiny_config(model))
    mesh = Mesh.parse("attn_tp=2,moe_tp=2")
    built = build(
        config, mesh, dtype=torch.float32, device=torch.device("cpu"), positions=8, costs=Costs(only=Policy())
    )
    program = built.plans.programs[0]
    sums = [op for op in program.operations if (c := collective_of(op)) and c.kind == "all_reduce"]
    assert len(sums) > 2
    assert {id(op) for op in sums} <= writable(program)


def test_an_input_is_never_written_to() -> None:
    class Same(nn.Module):
        def forward(self, batch: Any) -> Any:
            return batch.x

    spread = Spec(TOKENS, HIDDEN, attn_tp=Partial())
    plans = compile_plans(Same(), Mesh(2, {"attn_tp": 2}), inputs={"batch.x": spread}, gives=FREE)
    program = plans.programs[0]
    assert [c.kind for c in map(collective_of, program.operations) if c] == ["all_reduce"]
    assert writable(program) == set()
