"""Random graphs of leaves, sums and shared values: the ranks of a mesh give what one rank gives, under every policy.

Each leaf is true to its annotation. Legend of kinds: ``row`` gives addends, ``col`` columns, ``whole`` takes columns,
``own`` works on its group's tokens, ``same`` returns its very argument.
"""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ts_modeling.compiler import Costs, Policy, compile_plans, explain, lower, policies
from ts_modeling.compiler.choose import Traced, compiled_for
from ts_modeling.layers import Leaf
from ts_modeling.placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Shard, Spec
from ts_modeling.testing.simulated import run_simulated

HIDDEN = Dim("hidden", 8)
POLICIES = (Policy(), Policy(cut_tokens=True))
FREE, OWN = Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))
MESHES = {
    "attn_tp": ({"attn_tp": 2}, FREE, ((5,), (1,))),
    "moe_ep": ({"attn_dp": 2, "moe_ep": 2}, OWN, ((3, 2), (0, 1))),
}
"""By the axis that leaves name: the mesh, its inputs and results, and tokens of the groups."""


class Step(Leaf):
    """``many`` on one of two ranks, ``one`` where the module runs alone."""

    memory = "own"

    def __init__(
        self, takes: Any, gives: Spec, many: Callable[..., Tensor], one: Any = None, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.boundary = Boundary(takes if isinstance(takes, tuple) else (takes,), (gives,), linear=linear)
        self.many, self.one, self.alone = many, one or many, True

    def forward(self, *args: Tensor) -> Tensor:
        """[T, D] each -> [T, D]."""
        return (self.one if self.alone else self.many)(*args)


class Same(Step):
    """Gives its argument."""

    memory = "arguments"


def kinds(axis: str, rank: int) -> dict[str, Callable[[], Step]]:
    def on(placement: Any) -> Spec:
        return Spec(TOKENS, HIDDEN, **{axis: placement})

    def columns(x: Tensor) -> Tensor:
        return torch.sin(x[:, rank * 4 : rank * 4 + 4])

    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (rank * 4, 4 - rank * 4))

    whole, summed, cut, tokens = on(Replicate()), on(Partial()), on(Shard("hidden")), on(Shard("tokens"))
    largest, share = on(Partial("max")), (0.3, 0.7)[rank]
    return {
        "rep": lambda: Step(whole, whole, torch.tanh),
        "free": lambda: Step(FREE, FREE, lambda x: torch.relu(x) * 1.5 - x * 0.1),
        "row": lambda: Step(whole, summed, lambda x: x * share, lambda x: x * 1.0),
        "max": lambda: Step(whole, largest, lambda x: x - rank, lambda x: x * 1.0),
        "col": lambda: Step(whole, cut, columns, torch.sin),
        "whole": lambda: Step(cut, summed, padded, lambda x: x * 1.0),
        "tok": lambda: Step(tokens, tokens, torch.cos),
        "own": lambda: Step(OWN, OWN, lambda x: torch.tanh(x) - 0.2),
        "same": lambda: Same(FREE, FREE, lambda x: x, linear=True),
        "lin": lambda: Step(FREE, FREE, lambda x: -2 * x + x.mean(1, keepdim=True), linear=True),
        "mul": lambda: Step((FREE, FREE), FREE, lambda x, y: x * torch.tanh(y)),
        "join": lambda: Step((FREE, FREE), FREE, lambda x, y: x - 2 * y, linear=True),
    }


class Net(nn.Module):
    """Steps that each read one or two of the latest values."""

    def __init__(self, seed: int, axis: str, rank: int) -> None:
        super().__init__()
        draw, makers = random.Random(seed), kinds(axis, rank)
        self.steps: list[tuple[str, int, int]] = []
        for number in range(draw.randint(4, 14)):
            kind = draw.choice([*makers, "add", "add", "add", "row"])
            if kind != "add":
                self.add_module(f"{kind}{number}", makers[kind]())
            name = kind if kind == "add" else f"{kind}{number}"
            first = max(0, number - 3)
            self.steps.append((name, draw.randint(first, number), draw.randint(first, number)))

    def forward(self, batch: Any) -> Any:
        values = [batch.x]
        for name, a, b in self.steps:
            if name == "add":
                values.append(values[a] + values[b])
                continue
            step = getattr(self, name)
            values.append(step(values[a], values[b]) if len(step.boundary.takes) == 2 else step(values[a]))
        return values[-1]


def differences(seed: int, axis: str) -> list[str]:
    """Where two ranks differ from one for the graph of ``seed``."""
    axes, spec, cases = MESHES[axis]
    wrong: list[str] = []
    nets = [Net(seed, axis, rank) for rank in range(2)]
    for policy in POLICIES:
        meshes = [Mesh(2, axes, rank) for rank in range(2)]
        plans = [
            compile_plans(net, mesh, inputs={"batch.x": spec}, gives=spec, costs=Costs(only=policy))
            for net, mesh in zip(nets, meshes, strict=True)
        ]
        for sizes in cases:
            x = torch.randn(sum(sizes), 8, generator=torch.Generator().manual_seed(seed))
            set_alone(nets, alone=True)
            want = nets[0](SimpleNamespace(x=x.clone()))
            set_alone(nets, alone=False)
            mine = torch.split(x, list(sizes)) if len(sizes) == 2 else (x, x)
            groups = sizes if len(sizes) == 2 else ()
            batches = [SimpleNamespace(x=p.clone(), tokens=p[:, 0], dp_sizes=groups) for p in mine]
            got = run_simulated(plans, batches)
            together = torch.cat(got) if groups else got[rank_of(seed)]
            if not torch.allclose(together, want, rtol=1e-4, atol=1e-4 * float(want.abs().max().clamp_min(1.0))):
                wrong.append(f"graph {seed} on {axis}, {policy}, tokens {sizes}: {nets[0].steps}")
    return wrong


def rank_of(seed: int) -> int:
    """Either rank has the whole result; they take turns to be looked at."""
    return seed % 2


def set_alone(nets: list[Net], *, alone: bool) -> None:
    for net in nets:
        for step in net.children():
            assert isinstance(step, Step)
            step.alone = alone


@pytest.mark.parametrize("axis", MESHES)
def test_two_ranks_give_what_one_gives(axis: str) -> None:
    assert [line for seed in range(30) for line in differences(seed, axis)] == []


@pytest.mark.nightly
@pytest.mark.parametrize("axis", MESHES)
def test_two_ranks_give_what_one_gives_for_many_graphs(axis: str) -> None:
    assert [line for seed in range(30, 1000) for line in differences(seed, axis)] == []


class Layers(nn.Module):
    """A random graph, again and again."""

    def __init__(self, seed: int, axis: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Net(seed, axis, 0) for _ in range(9))

    def forward(self, batch: Any) -> Any:
        """The result of the last."""
        x = batch.x
        for layer in self.layers:
            x = layer(SimpleNamespace(x=x))
        return x


@pytest.mark.parametrize("axis", MESHES)
def test_the_plan_of_repeated_random_graphs_is_that_of_the_whole(axis: str) -> None:
    axes, spec, _ = MESHES[axis]
    found = 0
    for seed in range(60):
        model, mesh = Layers(seed, axis), Mesh(2, axes)
        traced = Traced.of(model, {"batch.x": spec}, spec)
        whole = Traced(model, traced.graph, traced.graph, (), traced.inputs, spec)
        found += bool(traced.runs)
        for policy in policies(model, mesh):
            one, other = (compiled_for(each, mesh, policy, 4) for each in (traced, whole))
            assert explain(one, itemsize=4, every=True) == explain(other, itemsize=4, every=True), seed
            assert lower(one, None)[0] == lower(other, None)[0], seed
    assert found > 20
