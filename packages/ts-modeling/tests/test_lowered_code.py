"""The code that is written runs, whatever is passed between modules and however things are called."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ts_modeling import CompileError
from ts_modeling.compiler import compile_model, lower
from ts_modeling.layers import Leaf
from ts_modeling.placement import OPAQUE, TOKENS, Boundary, Dim, Mesh, Spec

HIDDEN = Dim("hidden", 8)
FREE = Spec(TOKENS, HIDDEN)
X = torch.ones(3, 8)


class Weighted(Leaf):
    """``x`` times the sum of all numbers in its second argument."""

    def __init__(self, takes: Any = (FREE, OPAQUE), gives: Spec = FREE) -> None:
        super().__init__()
        self.boundary = Boundary(takes, (gives,))

    def forward(self, x: Any, *more: Any) -> Any:
        return x * self.total(more) if more else x * 2

    def total(self, of: Any) -> Any:
        if isinstance(of, list | tuple):
            return sum(map(self.total, of))
        return self.total(list(of.values())) if isinstance(of, dict) else of


class Passing(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.a, self.make = Weighted(), make

    def forward(self, batch: Any) -> Any:
        return self.a(batch.x, self.make(batch))


def run(model: nn.Module) -> Any:
    program = compile_model(model, Mesh.single(), inputs={"batch.x": FREE}, gives=FREE)
    forward = lower(program, None)[1]
    assert forward
    return forward(SimpleNamespace(x=X, y=3, z=4, i=1, rows=[5, 6, 7]))[0, 0].item()


@pytest.mark.parametrize(
    ("make", "total"),
    [
        (lambda b: [b.y, b.z], 7),
        (lambda b: (b.y,), 3),
        (lambda b: {"one": b.y, "two": [b.z, 1.5]}, 8.5),
        (lambda b: b.rows[b.i], 6),
        (lambda b: b.rows[1:], 13),
        (lambda b: b.rows[b.i : b.y], 13),
    ],
)
def test_lists_and_such_of_opaque_inputs_are_passed_on(make: Any, total: float) -> None:
    assert run(Passing(make)) == total


def test_what_cannot_be_written_down_is_refused_by_name() -> None:
    with pytest.raises(CompileError, match=r"a: is passed inf, which cannot be written down"):
        run(Passing(lambda b: [float("inf")]))
    with pytest.raises(CompileError, match=r"a: is passed \[tokens, hidden=8\] inside of a list .* pass it by itself"):
        run(Passing(lambda b: [b.x]))


@pytest.mark.parametrize("name", ["class", "q-heads", "2nd", "batch", "q.heads"])
def test_dimensions_and_modules_may_be_called_anything(name: str) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            other = Spec(TOKENS, Dim(name, 8))
            self.add_module(name.replace(".", ""), Weighted((FREE,), other))
            self.last = Weighted((other,), FREE)

        def forward(self, batch: Any) -> Any:
            x = batch.x
            for step in self.children():
                x = step(x)
            return x

    assert run(Chain()) == 4


def test_a_tensor_in_the_place_of_the_batch_is_refused() -> None:
    """Collectives would ask it for the tokens of the groups."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Weighted((FREE,))

        def forward(self, x: Any) -> Any:
            return self.a(x)

    with pytest.raises(CompileError, match=r"input x: the first argument .* is the batch, .* \(batch\.x\), or pass it"):
        compile_model(Plain(), Mesh(2, {"attn_tp": 2}), inputs={"x": FREE}, gives=FREE)
