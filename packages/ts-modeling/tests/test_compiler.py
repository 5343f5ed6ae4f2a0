"""The compiler on small models of one's own: plans, fusion, code, and errors that say what to change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ts_modeling import CompileError, MeshError
from ts_modeling.compiler import compile_model, explain, lower
from ts_modeling.compiler.program import FusedNorm, collective_of
from ts_modeling.layers import AddRMSNorm, Leaf, Linear, SelectRows
from ts_modeling.placement import (
    OPAQUE,
    SAMPLES,
    TOKENS,
    Boundary,
    Dim,
    Mesh,
    Partial,
    Replicate,
    Shard,
    Spec,
)

HIDDEN, INNER = Dim("hidden", 8), Dim("inner", 12)
INPUTS = {"batch.x": Spec(TOKENS, HIDDEN)}
PAIR = Mesh(2, {"attn_tp": 2})


class Step(Leaf):
    """A leaf with whatever boundary a test wants."""

    def __init__(self, takes: Any, gives: Any, *, linear: bool = False) -> None:
        super().__init__()
        as_tuple: Callable[[Any], tuple[Any, ...]] = lambda x: x if isinstance(x, tuple) else (x,)  # noqa: E731
        self.boundary = Boundary(as_tuple(takes), as_tuple(gives), linear=linear)

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Chain(nn.Module):
    """Modules one after the other on ``batch.x``."""

    def __init__(self, **steps: Leaf) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step)

    def forward(self, batch: Any) -> Any:
        x = batch.x
        for step in self.children():
            x = step(x)
        return x


def compiled(model: nn.Module, mesh: Mesh = PAIR, gives: Spec | None = None) -> Any:
    return compile_model(model, mesh, inputs=INPUTS, gives=gives or Spec(TOKENS, HIDDEN))


def kinds(program: Any) -> list[str]:
    return [c.step.kind for c in map(collective_of, program.operations) if c]


def columns(mesh: Mesh = PAIR) -> Linear:
    return Linear(HIDDEN, INNER, {"w": 12}, mesh, columns="attn_tp")


def rows(mesh: Mesh = PAIR) -> Linear:
    return Linear(INNER, HIDDEN, {"w": 8}, mesh, rows="attn_tp")


def test_column_then_row_needs_one_all_reduce() -> None:
    assert kinds(compiled(Chain(up=columns(), down=rows()))) == ["all_reduce"]


def test_one_rank_needs_no_collective() -> None:
    mesh = Mesh.single()
    assert kinds(compiled(Chain(up=columns(mesh), down=rows(mesh)), mesh)) == []


def test_a_partial_that_is_wanted_in_parts_is_reduce_scattered() -> None:
    takes = Spec(TOKENS, HIDDEN, attn_tp=Shard("hidden"))
    keep = Step(takes, takes)
    assert kinds(compiled(Chain(up=columns(), down=rows(), keep=keep))) == ["reduce_scatter", "all_gather"]


def test_from_heads_to_tokens_is_an_all_to_all() -> None:
    by_inner, by_token = (Spec(TOKENS, INNER, attn_tp=Shard(d)) for d in ("inner", "tokens"))
    model = Chain(up=columns(), swap=Step(by_token, by_inner), down=rows())
    assert kinds(compiled(model)) == ["all_to_all", "all_reduce"]


def test_two_views_of_one_world_meet_on_their_common_atoms() -> None:
    """Attention in 2x2, experts over 4: tokens are gathered for the experts and their sum is scattered back."""
    mesh = Mesh(4, {"attn_dp": 2, "attn_tp": 2, "moe_tp": 4})
    experts = Step(Spec(TOKENS, HIDDEN, moe_tp=Replicate()), Spec(TOKENS, HIDDEN, moe_tp=Partial()))
    attention = Step(
        Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"), attn_tp=Replicate()),
        Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"), attn_tp=Partial()),
    )
    inputs = {"batch.x": Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))}
    gives = Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))
    program = compile_model(Chain(a=attention, e=experts), mesh, inputs=inputs, gives=gives)
    assert kinds(program) == ["all_reduce", "all_gather", "reduce_scatter", "all_reduce"]


class Residual(nn.Module):
    """A branch added to its input by a residual norm; ``twice`` also uses the branch elsewhere."""

    def __init__(self, *, twice: bool = False) -> None:
        super().__init__()
        self.up, self.down = columns(), rows()
        self.norm = AddRMSNorm(HIDDEN, 1e-5, torch.float32)
        self.select = SelectRows(HIDDEN)
        self.twice = twice

    def forward(self, batch: Any) -> Any:
        branch = self.down(self.up(batch.x))
        x, residual = self.norm(branch, batch.x)
        return self.select(residual + branch if self.twice else x, batch.indices)


def test_all_reduce_and_residual_norm_become_one_step() -> None:
    program = compiled(Residual(), gives=Spec(SAMPLES, HIDDEN))
    fused = [op for op in program.operations if isinstance(op, FusedNorm)]
    assert [op.call.path for op in fused] == ["norm"]
    assert kinds(program) == ["all_reduce"]
    assert "norm_after_all_reduce(hidden, batch.x, batch)" in lower(program, None)[0]


def test_a_value_that_is_read_twice_is_converted_once_and_not_fused() -> None:
    program = compiled(Residual(twice=True), gives=Spec(SAMPLES, HIDDEN))
    assert not any(isinstance(op, FusedNorm) for op in program.operations)
    assert kinds(program) == ["all_reduce"]


def test_a_linear_module_lets_a_pending_sum_through() -> None:
    class Select(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.select = columns(), rows(), SelectRows(HIDDEN)

        def forward(self, batch: Any) -> Any:
            return self.select(self.down(self.up(batch.x)), batch.indices)

    program = compiled(Select(), gives=Spec(SAMPLES, HIDDEN))
    assert program.operations[-1] is not None
    assert [d.name for d in collective_of(program.operations[-1]).source.dims] == ["samples", "hidden"]


def test_code_is_straight_line_and_frees_what_is_dead() -> None:
    program = compiled(
        Chain(
            first=Step(Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN)),
            second=Step(Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN)),
        ),
        Mesh.single(),
    )
    code, forward = lower(program, None)
    assert forward is not None
    assert code.splitlines()[-1] == "    return hidden"
    assert all(word not in code for word in ("if ", "for ", "__call__"))

    class Batch:
        x = torch.ones(3, 8)

    assert torch.equal(forward(Batch()), torch.full((3, 8), 4.0))


def test_the_same_collective_twice_in_a_row_keeps_both_functions() -> None:
    """Two steps of one kind differ in sizes, so each is bound under its own name."""
    program = compiled(Chain(a=columns(), b=rows(), c=columns(), d=rows()))
    code = lower(program, None)[0]
    assert code.count("all_reduce") == 2


def error(model: nn.Module, *, mesh: Mesh | None = None, gives: Spec | None = None) -> str:
    with pytest.raises(CompileError) as caught:
        compiled(model, mesh or Mesh.single(), gives)
    return str(caught.value)


def test_a_wrong_annotation_is_an_error_even_on_one_rank() -> None:
    """Taking a Partial that nobody gives: module, edge, both placements, fix."""
    plain, partial = Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN, attn_tp=Partial())
    message = error(Chain(norm=Step(plain, plain), sum=Step(partial, plain)))
    assert message.startswith("norm -> sum: norm gives Replicate() on attn_tp")
    assert "sum takes Partial(sum)" in message
    assert "Declare that norm gives Partial(sum), or that sum takes Replicate()" in message


def test_sums_and_maxima_do_not_mix() -> None:
    gives = Spec(TOKENS, HIDDEN, attn_tp=Partial("sum"))
    takes = Spec(TOKENS, HIDDEN, attn_tp=Partial("max"))
    message = error(Chain(a=Step(Spec(TOKENS, HIDDEN), gives), b=Step(takes, Spec(TOKENS, HIDDEN))))
    assert "a -> b" in message
    assert "Partial(sum) cannot become a Partial(max)" in message


def test_dimensions_must_agree_across_an_edge() -> None:
    mesh = Mesh.single()
    message = error(Chain(up=columns(mesh), norm=Step(Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN))))
    assert message.startswith("up -> norm: gives [tokens, inner=12] but the next module takes [tokens, hidden=8]")


def test_the_result_must_be_what_the_model_declares() -> None:
    assert "returns [tokens, inner=12]" in error(Chain(up=columns(Mesh.single())))


def test_arithmetic_between_modules_is_refused_by_name() -> None:
    class Doubles(Chain):
        def forward(self, batch: Any) -> Any:
            return super().forward(batch) * 2

    message = error(Doubles(up=columns(Mesh.single())))
    assert "mul" in message
    assert "move it into an annotated module" in message


def test_a_sum_of_sums_is_not_told_again_in_an_error() -> None:
    """Else the name of a residual stream would grow by every layer."""

    class Sums(Chain):
        def forward(self, batch: Any) -> Any:
            total = self.a(batch.x) + batch.x
            return self.c(self.b(total) + total)

    plain = Spec(TOKENS, HIDDEN)
    steps = {name: Step(plain, plain) for name in "ab"}
    message = error(Sums(**steps, c=Step(Spec(TOKENS, HIDDEN, attn_tp=Partial()), plain)))
    assert message.startswith("b + ... -> c: b + ... gives Replicate() on ")


PART, ADDEND, WHOLE, OTHER = (
    Spec(TOKENS, HIDDEN, attn_tp=Shard("hidden")),
    Spec(TOKENS, HIDDEN, attn_tp=Partial()),
    Spec(TOKENS, HIDDEN, attn_tp=Replicate()),
    Spec(TOKENS, HIDDEN),
)


class Pair(Step):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x, y


class Joined(nn.Module):
    """A step of two values, one of two results of which is used."""

    def __init__(self, takes: tuple[Spec, Spec], gives: tuple[Spec, Spec]) -> None:
        super().__init__()
        self.part, self.addend, self.whole = (Step(OTHER, spec) for spec in (PART, ADDEND, WHOLE))
        self.step = Pair(takes, gives)

    def forward(self, batch: Any) -> Any:
        given = [
            next(s for s in (self.part, self.addend, self.whole) if s.boundary.gives[0] in (spec, WHOLE))
            for spec in self.step.boundary.takes
        ]
        first, _ = self.step(*(step(batch.x) for step in given))
        return first


@pytest.mark.parametrize("gives", [WHOLE, OTHER])
@pytest.mark.parametrize(("takes", "has"), [(PART, "its part of hidden"), (ADDEND, "its addend")])
def test_no_rank_gives_the_whole_of_what_it_has_a_part_of(takes: Spec, gives: Spec, has: str) -> None:
    """A sum or a gather that nobody makes; axes that are not named are whole."""
    message = error(Chain(a=Step(OTHER, takes), b=Step(takes, gives), c=Step(OTHER, OTHER)))
    assert message.startswith(
        f"a -> b: b takes {takes.axes['attn_tp']} on attn_tp and gives Replicate(): a rank has {has}"
    )
    for fine in (PART, ADDEND):
        compiled(Chain(a=Step(OTHER, takes), b=Step(takes, fine), c=Step(OTHER, OTHER)))


def test_one_of_several_results_may_come_of_what_is_whole() -> None:
    for gives in ((WHOLE, PART), (OTHER, ADDEND), (PART, PART)):
        compiled(Joined((PART, WHOLE), gives))
    assert error(Joined((PART, WHOLE), (WHOLE, WHOLE))).startswith("part -> step: step takes Shard(hidden) on attn_tp")
    assert error(Joined((OTHER, ADDEND), (WHOLE, OTHER))).startswith(
        "addend -> step: step takes Partial(sum) on attn_tp"
    )
    assert error(Joined((ADDEND, PART), (WHOLE, PART))).startswith("addend -> step: step takes Partial(sum) on attn_tp")


def test_an_unplaced_input_needs_an_annotation() -> None:
    class Other(Chain):
        def forward(self, batch: Any) -> Any:
            return self.up(batch.y)

    assert "batch.y" in error(Other(up=columns(Mesh.single())))


def test_argument_counts_must_agree() -> None:
    takes = (Spec(TOKENS, HIDDEN), OPAQUE)
    assert "boundary takes 2" in error(Chain(a=Step(takes, Spec(TOKENS, HIDDEN))))


def test_two_axes_that_share_ranks_must_say_the_same() -> None:
    both = Spec(TOKENS, HIDDEN, attn_tp=Shard("hidden"), moe_tp=Replicate())
    message = error(Chain(a=Step(both, Spec(TOKENS, HIDDEN))))
    assert "attn_tp" in message
    assert "moe_tp" in message


def test_a_dimension_that_does_not_divide_is_named() -> None:
    cut = Spec(TOKENS, HIDDEN, attn_tp=Shard("hidden"))
    message = error(Chain(a=Step(cut, cut)), mesh=Mesh(3, {"attn_tp": 3}))
    assert "hidden=8 cannot be cut into 3 parts" in message
    with pytest.raises(MeshError, match=r"inner of w = 12 does not divide over attn_tp=5"):
        columns(Mesh(5, {"attn_tp": 5}))


def test_explain_counts_bytes() -> None:
    """All-reduce of 8 elements over 2 ranks: 2 * (2 - 1) / 2 * 8 elements of 2 bytes."""
    text = explain(compiled(Chain(up=columns(), down=rows())), itemsize=2)
    assert "all_reduce [sum] over attn_tp|dense_tp (2 ranks): 16 bytes a token; down -> output" in text
    assert "1 collectives (1 all_reduce); each rank sends 16 bytes a token" in text


class Both(Chain):
    """What the first module gives, and what the last gives."""

    def forward(self, batch: Any) -> Any:
        first, *others = (step for _, step in self.named_children())
        x = kept = first(batch.x)
        for step in others:
            x = step(x)
        return x, kept


def test_a_plan_gives_several_results_each_where_it_is_wanted() -> None:
    """The second is gathered for the caller alone; the first module's output stays alive for it."""
    model = Both(up=columns(), down=rows())
    program = compile_model(model, PAIR, inputs=INPUTS, gives=(Spec(TOKENS, HIDDEN), Spec(TOKENS, INNER)))
    assert sorted(kinds(program)) == ["all_gather", "all_reduce"]
    assert len(program.extras) == 1
    code = lower(program, None)[0].splitlines()
    assert code[-1].count(",") == 1
    single = compile_model(model, Mesh.single(), inputs=INPUTS, gives=(Spec(TOKENS, HIDDEN), Spec(TOKENS, INNER)))
    assert "del" not in lower(single, None)[0]


def test_results_that_the_annotation_does_not_name_are_refused() -> None:
    with pytest.raises(CompileError, match="the model returns 2 values, its annotation says 1"):
        compile_model(Both(up=columns(), down=rows()), PAIR, inputs=INPUTS, gives=Spec(TOKENS, HIDDEN))
    with pytest.raises(CompileError, match=r"the model returns \[tokens, inner=12\], its annotation says"):
        compile_model(
            Both(up=columns(), down=rows()), PAIR, inputs=INPUTS, gives=(Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN))
        )
