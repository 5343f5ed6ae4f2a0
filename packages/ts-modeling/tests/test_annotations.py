"""Annotations that are wrong by themselves: an error at compilation that names the module, what is allowed, the fix."""

from typing import Any

import pytest
from torch import nn
from ts_modeling import CompileError
from ts_modeling.compiler import compile_model
from ts_modeling.layers import Leaf
from ts_modeling.placement import OPAQUE, SAMPLES, TOKENS, Boundary, Dim, Mesh, Partial, Routed, Shard, Spec

HIDDEN = Dim("hidden", 8)
FREE = Spec(TOKENS, HIDDEN)


class Block(nn.Module):
    """One leaf, called ``block.step`` in messages."""

    def __init__(self, boundary: Any) -> None:
        super().__init__()
        self.step = Leaf()
        if boundary is not None:
            self.step.boundary = boundary

    def forward(self, batch: Any) -> Any:
        return self.step(batch.x)


class Model(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, batch: Any) -> Any:
        return self.block(batch)


def error(block: nn.Module, *, inputs: Any = None, gives: Any = FREE) -> str:
    with pytest.raises(CompileError) as caught:
        compile_model(Model(block), Mesh.single(), inputs=inputs or {"batch.x": FREE}, gives=gives)
    return str(caught.value)


def gives(*dims: Any, **axes: Any) -> Boundary:
    return Boundary((FREE,), (Spec(*(dims or (TOKENS, HIDDEN)), **axes),))


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        (gives(attn_pt=Partial()), "gives[0]: [tokens, hidden=8]{attn_pt: Partial(sum)}: there is no axis attn_pt, did "
         "you mean attn_tp? there are attn_dp, attn_tp, dense_tp, moe_ep, moe_tp"),
        (gives(attn_tp=Shard("hiden")), "gives[0]: attn_tp = Shard(hiden): there is no dimension hiden, did you mean "
         "hidden? there are tokens, hidden"),
        (gives(attn_tp=Shard(HIDDEN)), 'Shard(hidden=8) takes the name of the dimension; write Shard("hidden")'),
        (gives(attn_tp=Partial), "attn_tp = Partial is the class; write Replicate(), Shard(dim) or Partial(op)"),
        (gives(attn_tp="Partial"), "attn_tp = 'Partial' is no placement; write Replicate(), Shard(dim) or Partial(op)"),
        (gives(attn_tp=Partial("min")), "attn_tp = Partial(min): reductions are sum and max"),  # type: ignore[arg-type]
        (gives(TOKENS, "hidden"), "gives[0]: 'hidden' is no dimension; write Dim(name, size)"),
        (gives(TOKENS, HIDDEN, Dim("hidden", 2)), "[tokens, hidden=8, hidden=2]{} has two dimensions of one name"),
        (None, "Leaf has no annotation; set self.boundary = Boundary(takes=(...), gives=(...))"),
        (FREE, "Leaf has no annotation"),
        (Boundary(FREE, FREE), "takes is [tokens, hidden=8]{}, not a tuple"),  # type: ignore[arg-type]
        (Boundary((FREE,), (OPAQUE,)), "gives[0] is Opaque(); give a Spec"),  # type: ignore[arg-type]
        (Boundary(("tokens",), (FREE,)), "takes[0] is 'tokens'; give a Spec or OPAQUE"),  # type: ignore[arg-type]
        (Boundary((FREE,), ()), "gives 0 results and names 0"),
        (Boundary((FREE,), (FREE,), names=("a", "b")), "gives 1 results and names 2"),
        (Boundary((FREE,), (FREE,), routed=Routed("ep", 0, 8)), "routed: there is no axis ep"),
    ],
)  # fmt: skip
def test_a_wrong_boundary_names_module_and_fix(boundary: Any, message: str) -> None:
    said = error(Block(boundary))
    assert said.startswith("block.step: ")
    assert message in said


def test_wrong_annotations_of_the_ends_are_named() -> None:
    good = Block(Boundary((FREE,), (FREE,)))
    assert error(good, inputs={"batch.x": "tokens"}) == "input batch.x: is annotated with 'tokens'; give a Spec"
    assert "input batch.x: " in error(good, inputs={"batch.x": Spec(TOKENS, HIDDEN, attn_tp=Shard("head"))})
    assert error(good, gives=None) == "output: is annotated with None; give a Spec"


def test_control_flow_on_values_names_the_module() -> None:
    class Branches(nn.Module):
        def forward(self, batch: Any) -> Any:
            return batch.x if batch.x.sum() > 0 else batch.y

    class Loops(nn.Module):
        def forward(self, batch: Any) -> Any:
            return [row for row in batch.x][0]  # noqa: C416, RUF015

    assert error(Branches()).startswith("block.gt: the model asks whether ")
    assert error(Loops()).startswith("block.getattr: the model loops over ")
    assert all("may depend on its configuration only" in error(model) for model in (Branches(), Loops()))


def test_a_cut_of_the_tokens_is_one_of_the_samples_for_a_module_that_takes_either() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.select, self.head = Leaf(), Leaf()
            self.select.boundary = Boundary((FREE, OPAQUE), (Spec(SAMPLES, HIDDEN, attn_dp=Shard("samples")),))
            cut = Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))
            self.head.boundary = Boundary((cut,), (cut,))

        def forward(self, batch: Any) -> Any:
            return self.head(self.select(batch.x, batch.indices))

    program = compile_model(
        Chosen(),
        Mesh(2, {"attn_dp": 2}),
        inputs={"batch.x": FREE},
        gives=Spec(SAMPLES, HIDDEN, attn_dp=Shard("samples")),
    )
    assert program.result is not None
    assert program.result.layout == (Shard("samples"),)


@pytest.mark.parametrize("inputs", [(), [FREE], FREE])
def test_inputs_that_have_no_names(inputs: Any) -> None:
    """Asked of the compiler itself: ``error`` takes what is empty for none given."""
    with pytest.raises(CompileError, match=r"^the model's inputs are .*; give Specs by name"):
        compile_model(Model(Block(gives())), Mesh.single(), inputs=inputs, gives=FREE)
