"""Sums of sums, run early beside collectives: no module is lost, none is run twice, all read what is there."""

from typing import Any

import pytest
from torch import nn
from ts_modeling.compiler import compile_model, explain, lower
from ts_modeling.compiler.program import Call, Program, Start, reads
from ts_modeling.layers import Leaf
from ts_modeling.placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Shard, Spec

HIDDEN = Dim("hidden", 8)
OWN = Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))
FREE = Spec(TOKENS, HIDDEN)
SPREAD = Mesh(2, {"attn_dp": 2, "moe_ep": 2})
PAIR = Mesh(2, {"attn_tp": 2})


class Step(Leaf):
    def __init__(self, takes: Spec, gives: Spec) -> None:
        super().__init__()
        self.boundary = Boundary((takes,), (gives,))

    def forward(self, x: Any) -> Any:
        return x * 2


class Sums(nn.Module):
    """Two experts, and modules on the tokens of this rank's group."""

    def __init__(self) -> None:
        super().__init__()
        takes, gives = (Spec(TOKENS, HIDDEN, moe_ep=p) for p in (Replicate(), Partial()))
        self.e, self.f = Step(takes, gives), Step(takes, gives)
        self.a, self.b, self.n = Step(OWN, OWN), Step(OWN, OWN), Step(FREE, FREE)


class OuterRight(Sums):
    def forward(self, batch: Any) -> Any:
        x = batch.x
        return (self.e(x) + self.a(x)) + self.b(x)


class OuterLeft(Sums):
    def forward(self, batch: Any) -> Any:
        e, a, b = (step(batch.x) for step in (self.e, self.a, self.b))
        return b + (a + e)


class TwoOfTwo(Sums):
    def forward(self, batch: Any) -> Any:
        x = batch.x
        return (self.e(self.n(x)) + self.a(x)) + (self.f(self.b(x)) + self.b(x))


class Twice(nn.Module):
    """A sum of a value with itself."""

    def __init__(self) -> None:
        super().__init__()
        whole = Spec(TOKENS, HIDDEN, attn_tp=Replicate())
        self.a, self.b = Step(whole, Spec(TOKENS, HIDDEN, attn_tp=Partial())), Step(whole, whole)

    def forward(self, batch: Any) -> Any:
        y = self.b(self.a(batch.x))
        return y + y


def compiled(model: nn.Module) -> Program:
    mesh, spec = (PAIR, FREE) if isinstance(model, Twice) else (SPREAD, OWN)
    return compile_model(model, mesh, inputs={"batch.x": spec}, gives=spec)


@pytest.mark.parametrize(
    ("model", "calls"),
    [(OuterRight(), "abe"), (OuterLeft(), "abe"), (TwoOfTwo(), "abbefn"), (Twice(), "ab")],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else x,
)
def test_every_module_runs_once_after_what_it_reads(model: nn.Module, calls: str) -> None:
    program = compiled(model)
    assert sorted(op.path for op in program.operations if isinstance(op, Call)) == sorted(calls)
    made: set[int] = set()
    for op in program.operations:
        assert all(v.expr or v.id in made for v in reads(op)), op
        made |= {v.id for v in op.outs}
    text = explain(program, itemsize=2)
    assert all(f"\n    {name} " in text for name in set(calls))
    lower(program, None)


def test_modules_of_an_outer_sum_join_those_that_run_beside_a_collective() -> None:
    program = compiled(OuterRight())
    begun = next(i for i, op in enumerate(program.operations) if isinstance(op, Start))
    beside = program.operations[begun + 1 : begun + 3]
    assert [op.path for op in beside if isinstance(op, Call)] == ["a", "b"]
