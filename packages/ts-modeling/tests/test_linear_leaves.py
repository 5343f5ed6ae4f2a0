"""What goes through a module declared linear: pending sums, where all that it takes is one, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ts_modeling.compiler import Costs, Plans, Policy, compile_plans
from ts_modeling.compiler.program import collective_of, edge_of
from ts_modeling.layers import Leaf
from ts_modeling.placement import TOKENS, Boundary, Dim, Mesh, Partial, Placement, Replicate, Shard, Spec
from ts_modeling.testing.simulated import run_simulated

HIDDEN = Dim("hidden", 8)
FREE = Spec(TOKENS, HIDDEN)
X = torch.arange(24.0).view(3, 8)


def on(placement: Placement) -> Spec:
    return Spec(TOKENS, HIDDEN, attn_tp=placement)


class Step(Leaf):
    def __init__(self, takes: tuple[Spec, ...], gives: Spec, forward: Any, *, linear: bool = False) -> None:
        super().__init__()
        self.boundary, self.made = Boundary(takes, (gives,), linear=linear), forward

    def forward(self, *args: Tensor) -> Tensor:
        return self.made(*args)


class Then(nn.Module):
    """A linear module after one that gives ``x`` as ``placement``: on this rank, ``local(x)``."""

    def __init__(self, placement: Placement, local: Any, linear: Any, *, join: str = "") -> None:
        super().__init__()
        self.join = join
        self.a = Step((on(Replicate()),), on(placement), local)
        self.lin = Step((FREE,) * (2 if join else 1), FREE, linear, linear=True)

    def forward(self, batch: Any) -> Any:
        y = self.a(batch.x)
        if not self.join:
            return self.lin(y)
        return self.lin(batch.x, y) if self.join == "value first" else self.lin(y, batch.x)


def compiled(model: nn.Module, policy: Policy, rank: int = 0) -> Plans:
    mesh = Mesh(2, {"attn_tp": 2}, rank)
    return compile_plans(model, mesh, inputs={"batch.x": FREE}, gives=FREE, costs=Costs(only=policy))


def run(models: list[nn.Module], policy: Policy) -> list[Tensor]:
    plans = [compiled(model, policy, rank) for rank, model in enumerate(models)]
    return run_simulated(plans, [SimpleNamespace(x=X.clone(), tokens=X[:, 0], dp_sizes=()) for _ in models])


POLICIES = pytest.mark.parametrize("policy", [Policy(), Policy(cut_tokens=True)], ids=["whole", "cut"])


@POLICIES
def test_a_pending_maximum_is_resolved_first(policy: Policy) -> None:
    """The maximum of -2 x is not -2 times the maximum."""
    models: list[nn.Module] = [Then(Partial("max"), lambda x, r=r: x - r, lambda x: -2 * x) for r in (0, 1)]
    for out in run(models, policy):
        torch.testing.assert_close(out, -2 * X)


@POLICIES
def test_columns_are_gathered_first(policy: Policy) -> None:
    """A linear module may mix columns, and what it gives may have none of that name."""

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)

    models: list[nn.Module] = [Then(Shard("hidden"), lambda x, r=r: x[:, 4 * r : 4 * r + 4], centred) for r in (0, 1)]
    for out in run(models, policy):
        torch.testing.assert_close(out, centred(X))
    other = Spec(TOKENS, Dim("inner", 12))
    model = Then(Shard("hidden"), None, None)
    model.lin.boundary = Boundary((FREE,), (other,), linear=True)
    plans = compile_plans(model, Mesh(2, {"attn_tp": 2}), inputs={"batch.x": FREE}, gives=other)
    assert plans.programs[0].result is not None
    assert plans.programs[0].result.layout == (Replicate(),)


@POLICIES
@pytest.mark.parametrize("join", ["value first", "sum first"])
def test_a_value_beside_a_pending_sum_is_counted_once(policy: Policy, join: str) -> None:
    models: list[nn.Module] = [
        Then(Partial(), lambda x, r=r: x * (0.3, 0.7)[r], lambda a, b: a - 3 * b, join=join) for r in (0, 1)
    ]
    for out in run(models, policy):
        torch.testing.assert_close(out, X - 3 * X)


def test_two_pending_sums_go_through_together() -> None:
    class Two(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.a, self.b = (Step((on(Replicate()),), on(Partial()), lambda x: x * share) for _ in "ab")
            self.lin = Step((FREE, FREE), FREE, lambda a, b: a - 3 * b, linear=True)

        def forward(self, batch: Any) -> Any:
            return self.lin(self.a(batch.x), self.b(batch.x))

    models: list[nn.Module] = [Two(0.3), Two(0.7)]
    program = compiled(models[0], Policy()).programs[0]
    assert [edge_of(c) for c in map(collective_of, program.operations) if c] == ["lin -> output"]
    for out in run(models, Policy()):
        torch.testing.assert_close(out, X - 3 * X)
