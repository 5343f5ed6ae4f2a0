"""Which plan is chosen, what it costs, and that it has no more collectives than one would place by hand."""

import re
from collections import Counter
from itertools import pairwise
from math import comb
from time import process_time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from ts_modeling import CompileError, Mesh, MeshError
from ts_modeling.command import named_config
from ts_modeling.communication import collectives
from ts_modeling.communication.sizes import Sizes
from ts_modeling.compiler import Costs, Policy, Program, compile_model, compile_plans, lower, summarize
from ts_modeling.compiler.choose import envelope
from ts_modeling.compiler.cost import share_asked, wire_bytes
from ts_modeling.compiler.lower import lower_plans, section
from ts_modeling.compiler.program import Call, Dispatch, FusedNorm, Start, Wait, collective_of, edge_of, reads
from ts_modeling.layers import AddRMSNorm, Leaf, Linear, RMSNorm, SelectRows
from ts_modeling.placement import SAMPLES, TOKENS, Boundary, Dim, Partial, Replicate, Routed, Shard, Spec, token_extent
from ts_modeling.registry import build, config_from
from ts_modeling.testing import text_config, tiny_config

HIDDEN, INNER = Dim("hidden", 8), Dim("inner", 12)
INPUTS = {"batch.x": Spec(TOKENS, HIDDEN)}
PAIR = Mesh(2, {"attn_tp": 2})
PLAIN, CUT, DISPATCH, BOTH = Policy(), Policy(cut_tokens=True), Policy(dispatch=True), Policy(True, True)
ALL_REDUCED = {"all_reduce": 2}
KEPT_CUT = {"reduce_scatter": 2, "all_gather": 2}
GATHERED = {"all_gather": 1, "reduce_scatter": 1}
SENT = {"dispatch": 1, "combine": 1}
NARROW = {"q_lora_rank": 16, "kv_lora_rank": 16}
"""Latents that are narrower than the hidden size, as in the published model."""
WIDE = {"all_reduce": 1}
"""Of two numbers a token: MiniMax M2 norms queries and keys over the width of all heads."""
MINIMUM: list[tuple[str, str, Policy, dict[str, int]]] = [
    # Attention and MLP each give a sum over the ranks that take all tokens: one all-reduce each, or its two halves.
    *((model, "attn_tp=2,moe_tp=2", PLAIN, ALL_REDUCED) for model in ("llama", "qwen3_moe", "gpt_oss", "kimi")),
    *((model, "attn_tp=2,moe_tp=2", CUT, KEPT_CUT) for model in ("llama", "qwen3_moe", "gpt_oss", "kimi")),
    *((model, "attn_tp=2,moe_ep=2", PLAIN, ALL_REDUCED) for model in ("llama", "qwen3_moe", "kimi")),
    ("kimi", "attn_tp=4,moe_tp=4", PLAIN, ALL_REDUCED),
    ("kimi", "attn_tp=4,moe_tp=2,moe_ep=2", PLAIN, ALL_REDUCED),
    ("kimi", "attn_tp=4,moe_tp=2,moe_ep=2", CUT, KEPT_CUT),
    # Each rank attends to its own tokens: dense layers need nothing, experts their tokens and their sum back.
    ("llama", "attn_dp=2,moe_ep=2", PLAIN, {}),
    *((model, "attn_dp=2,moe_ep=2", PLAIN, GATHERED) for model in ("qwen3_moe", "kimi")),
    *((model, "attn_dp=2,moe_tp=2", PLAIN, GATHERED) for model in ("qwen3_moe", "kimi")),
    ("llama", "attn_dp=2,dense_tp=2,moe_tp=2", PLAIN, GATHERED),
    ("kimi", "attn_dp=4,moe_ep=4", DISPATCH, SENT),
    ("qwen3_moe", "attn_dp=2,moe_ep=2", DISPATCH, SENT),
    # One axis brings tokens to the experts' ranks, the other one cuts the experts: gather, send, come back, reduce.
    ("kimi", "attn_dp=4,moe_ep=2,moe_tp=2", DISPATCH, {**GATHERED, **SENT}),
    ("kimi", "attn_dp=4,moe_ep=2,moe_tp=2", PLAIN, GATHERED),
    ("kimi", "attn_tp=4,moe_ep=4,dense_tp=1", PLAIN, ALL_REDUCED),
    # Attention's halves of an all-reduce; tokens stay cut on every rank, from where they go to their experts.
    ("kimi", "attn_tp=4,moe_ep=4,dense_tp=1", BOTH, {**GATHERED, **SENT}),
    ("kimi", "attn_dp=2,attn_tp=2,moe_ep=4,dense_tp=1", BOTH, {**GATHERED, **SENT}),
    # Crossing views: attention's sum; experts take the other group's tokens, give back a sum over both axes.
    ("kimi", "attn_dp=2,attn_tp=2,moe_ep=4", PLAIN, {"all_reduce": 2, **GATHERED}),
    # The shared expert's tokens are a part of those gathered for the routed ones: two gathers, no third.
    ("kimi", "attn_dp=2,attn_tp=2,moe_ep=4", CUT, {"all_gather": 2, "reduce_scatter": 3}),
    ("minimax_m2", "attn_tp=2,moe_ep=2", PLAIN, {"all_reduce": 3}),
    ("minimax_m2", "attn_tp=2,moe_ep=2", CUT, {**KEPT_CUT, **WIDE}),
    ("minimax_m2", "attn_dp=2,moe_ep=2", DISPATCH, SENT),
]


class Step(Leaf):
    """A leaf with whatever boundary a test wants."""

    def __init__(self, takes: Spec, gives: Spec) -> None:
        super().__init__()
        self.boundary = Boundary((takes,), (gives,))

    def forward(self, x: Tensor) -> Tensor:
        """Twice ``x``."""
        return x * 2


def columns() -> Linear:
    return Linear(HIDDEN, INNER, {"w": 12}, PAIR, columns="attn_tp")


def rows() -> Linear:
    return Linear(INNER, HIDDEN, {"w": 8}, PAIR, rows="attn_tp")


def program_of(model: str, mesh: str, policy: Policy, **changes: Any) -> Program:
    """The plan of a tiny model with four layers."""
    kimi = model == "kimi"
    changes = {"num_hidden_layers": 4, **changes}
    raw = text_config(int4=False, **changes) if kimi else tiny_config(model, **changes)
    costs = Costs(only=policy)
    built = build(
        config_from(raw),
        Mesh.parse(mesh),
        dtype=torch.float32,
        device=torch.device("cpu"),
        positions=8,
        costs=costs,
    )
    return built.plans.programs[0]


def check_order(program: Program) -> None:
    """Every value is made before it is read."""
    known: set[int] = set()
    for op in program.operations:
        assert all(value.expr or value.id in known for value in reads(op)), op
        known |= {value.id for value in op.outs}


@pytest.mark.parametrize(("model", "mesh", "policy", "counts"), MINIMUM)
def test_a_layer_has_the_collectives_that_one_would_place_by_hand(
    model: str, mesh: str, policy: Policy, counts: dict[str, int]
) -> None:
    program = program_of(model, mesh, policy)
    check_order(program)
    inside = [(c, op) for op in program.operations if (c := collective_of(op)) and section(op) == "layers.2"]
    assert Counter(c.kind for c, _ in inside if c.kind != "slice") == counts
    if policy in (PLAIN, CUT) and "attn_tp" in mesh and not {"attn_dp", "dense_tp"} & set(re.split("[=,]", mesh)):
        assert sum(isinstance(op, FusedNorm) for _, op in inside) == 2


@pytest.mark.parametrize(
    ("mesh", "policy", "per_layer", "begun"),
    [
        ("attn_tp=4,moe_tp=4", PLAIN, 2 * (4 - 1) / 4 * 2 * 64, 0),
        ("attn_tp=4,moe_tp=4", CUT, (4 - 1) / 4 * (3 * 64 + 16 + 24), 0),
        ("attn_dp=4,moe_ep=4", PLAIN, (4 - 1) / 4 * 2 * 64, 1),
        ("attn_dp=4,moe_ep=4", DISPATCH, 3 / 4 * (1 - comb(6, 3) / comb(8, 3)) * (2 * 64 + 3 * 8 / 4), 1),
    ],
)
def test_bytes_of_a_layer_are_those_of_the_ring(mesh: str, policy: Policy, per_layer: float, begun: int) -> None:
    """By hand: hidden 64, latents 16 + 24, fp32 elements; the ids and weights of 3 experts travel with a row."""
    program = program_of("kimi", mesh, policy, **NARROW)
    inside = [op for op in program.operations if section(op) == "layers.2" and collective_of(op)]
    assert sum(wire_bytes(collective_of(op), program, 4) for op in inside) == pytest.approx(per_layer * 4)  # type: ignore[arg-type]
    here = [number for number, op in enumerate(program.operations) if isinstance(op, Start)]
    assert len(here) == 3 * begun, "three layers have experts"
    for number in here:
        shared, wait = program.operations[number + 1 : number + 3]
        assert isinstance(shared, Call)
        assert shared.path.endswith("mlp.shared")
        assert isinstance(wait, Wait)


def test_the_shared_expert_runs_beside_the_dispatch_in_the_code() -> None:
    code = lower(program_of("kimi", "attn_dp=4,moe_ep=4", DISPATCH), None)[0]
    lines = [line.strip() for line in code[code.index("# layers.2") : code.index("# layers.3")].splitlines()]
    start = next(i for i, line in enumerate(lines) if "start_dispatch(" in line)
    assert lines[start].startswith("pending = start_dispatch(hidden, weights, ids, batch)")
    assert "layers_2_mlp_shared(hidden)" in lines[start + 1]
    assert ", route = pending.wait()" in lines[start + 2]
    assert "layers_2_mlp_experts(" in lines[start + 3]
    assert "combine(" in lines[start + 4]


@given(st.integers(1, 6).flatmap(lambda p: st.tuples(st.just(p), st.integers(p, 12), st.integers(1, 4))))
def test_the_share_of_rows_that_a_rank_is_asked_for(case: tuple[int, int, int]) -> None:
    """Against counting: rows without any of its experts, of all ways to choose."""
    parts, experts, chosen = case
    chosen = min(chosen, experts)
    without = comb(experts - experts // parts, chosen) / comb(experts, chosen)
    assert share_asked(experts, parts, chosen) == pytest.approx(1 - without)


lines = st.lists(st.tuples(st.integers(0, 50).map(float), st.integers(0, 5000).map(float)), min_size=1, max_size=5)


@given(lines, st.integers(1, 10_000))
def test_the_envelope_is_the_cheapest_everywhere(candidates: list[tuple[float, float]], tokens: int) -> None:
    found = envelope(candidates)
    assert found[0][0] == 0
    assert all(a < b for (a, _), (b, _) in pairwise(found))
    _, chosen = [pair for pair in found if pair[0] <= tokens][-1]
    at = [slope * tokens + height for slope, height in candidates]
    assert at[chosen] == min(at)


def test_few_tokens_are_all_reduced_and_many_kept_cut() -> None:
    """Two all-reduces a layer are two beginnings; their halves are four and send less, for the latents are narrower."""
    config = config_from(text_config(int4=False, **NARROW))
    mesh = Mesh.parse("attn_tp=2,moe_tp=2")
    costs = Costs(start=1000)
    built = build(config, mesh, dtype=torch.float32, device=torch.device("cpu"), positions=8, costs=costs)
    plans = built.plans
    assert [p.policy for p in plans.programs] == [PLAIN, CUT]
    before, after = plans.at(plans.since[1] - 1), plans.at(plans.since[1])
    assert (before.policy, after.policy) == (PLAIN, CUT)
    code, _ = lower_plans(plans, None)
    assert f"if tokens >= {plans.since[1]}:\n        return forward_from_{plans.since[1]}(batch, cache)" in code
    free = build(config, mesh, dtype=torch.float32, device=torch.device("cpu"), positions=8, costs=Costs(start=0))
    assert [p.policy for p in free.plans.programs] == [CUT]


def test_one_rank_has_one_plan_and_no_choice_in_its_code() -> None:
    program = program_of("kimi", "", PLAIN)
    assert not any(map(collective_of, program.operations))
    config = config_from(text_config(int4=False))
    built = build(config, Mesh.single(), dtype=torch.float32, device=torch.device("cpu"), positions=8)
    assert len(built.plans.programs) == 1
    code = lower_plans(built.plans, None)[0]
    assert code.startswith("def forward(batch, cache):\n    # embed")


def test_the_plan_of_61_layers_is_made_in_five_seconds() -> None:
    """Of this process: all policies, hoisted, fused and overlapped, and lowered."""
    config, mesh = named_config("kimi-k2.5"), Mesh.parse("attn_dp=2,attn_tp=4,moe_ep=8")
    began = process_time()
    built = build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=1)
    lower_plans(built.plans, None)
    assert process_time() - began < 5


class Scaled(Leaf):
    """Twice the rows, for the ids that are this rank's."""

    def __init__(self, routed: Routed, gives: Any) -> None:
        super().__init__()
        chosen = Dim("chosen", 2)
        takes = (Spec(TOKENS, HIDDEN, moe_ep=Replicate()), Spec(TOKENS, chosen, moe_ep=Replicate()))
        self.boundary = Boundary(takes, (Spec(TOKENS, HIDDEN, moe_ep=gives),), routed=routed)

    def forward(self, x_TD: Tensor, ids_Tk: Tensor) -> Tensor:
        """[T, D], [T, k] -> [T, D]."""
        return x_TD


class RoutedModel(nn.Module):
    """One routed module on inputs."""

    def __init__(self, leaf: Leaf) -> None:
        super().__init__()
        self.scaled = leaf

    def forward(self, batch: Any) -> Any:
        """Its result."""
        return self.scaled(batch.x, batch.ids)


def routed_program(leaf: Leaf, policy: Policy = DISPATCH) -> Program:
    spread = {"attn_dp": Shard("tokens")}
    inputs = {"batch.x": Spec(TOKENS, HIDDEN, **spread), "batch.ids": Spec(TOKENS, Dim("chosen", 2), **spread)}
    mesh = Mesh(2, {"attn_dp": 2, "moe_ep": 2})
    return compile_model(
        RoutedModel(leaf), mesh, inputs=inputs, gives=Spec(TOKENS, HIDDEN, **spread), costs=Costs(only=policy)
    )


def test_any_routed_module_is_dispatched() -> None:
    program = routed_program(Scaled(Routed("moe_ep", ids=1, count=8), Partial()))
    sent = program.operations[0]
    assert isinstance(sent, Dispatch)
    assert [d.name for d in sent.outs[0].dims] == ["copies", "hidden"]
    assert [c.kind for c in map(collective_of, program.operations) if c] == ["dispatch", "combine"]
    plain = routed_program(Scaled(Routed("moe_ep", ids=1, count=8), Partial()), PLAIN)
    assert [c.kind for c in map(collective_of, plain.operations) if c] == ["all_gather", "all_gather", "reduce_scatter"]


def test_a_routed_module_has_to_give_a_sum_over_its_axis() -> None:
    with pytest.raises(CompileError, match=r"scaled: is routed over moe_ep.*moe_ep=Partial\(sum\).*leave out routed"):
        routed_program(Scaled(Routed("moe_ep", ids=1, count=8), Replicate()))


@pytest.mark.parametrize("policy", [PLAIN, DISPATCH])
def test_what_a_routed_module_is_routed_among_has_equal_parts(policy: Policy) -> None:
    """Else a dispatch would send the rows of the last ids nowhere."""
    with pytest.raises(CompileError, match=r"scaled: the 7 .* into 2 equal parts over moe_ep; moe_ep may be 1, 7$"):
        routed_program(Scaled(Routed("moe_ep", ids=1, count=7), Partial()), policy)


def test_rows_of_a_routed_module_have_columns_alone() -> None:
    leaf = Scaled(Routed("moe_ep", ids=1, count=8), Partial())
    takes = (Spec(TOKENS, Dim("heads", 2), Dim("hidden", 8), moe_ep=Replicate()), leaf.boundary.takes[1])
    leaf.boundary = Boundary(takes, leaf.boundary.gives, routed=leaf.boundary.routed)
    with pytest.raises(
        CompileError, match=r"scaled: .* argument 0 has to be \[batch, columns\], .* heads=2, hidden=8\]"
    ):
        routed_program(leaf, PLAIN)
    with pytest.raises(CompileError, match=r"scaled: .*ids is the number of an argument, 0 to 1"):
        routed_program(Scaled(Routed("moe_ep", ids=2, count=8), Partial()))


def test_a_module_that_counts_rows_gets_all_of_them() -> None:
    """What is opaque may hold row numbers, so tokens that are cut between blocks are gathered for it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = columns(), rows()
            self.norm, self.select = AddRMSNorm(HIDDEN, 1e-5, torch.float32), SelectRows(HIDDEN)

        def forward(self, batch: Any) -> Any:
            x, _ = self.norm(self.down(self.up(batch.x)), batch.x)
            return self.select(x, batch.indices)

    program = compile_model(
        Model(), Mesh(2, {"attn_tp": 2}), inputs=INPUTS, gives=Spec(SAMPLES, HIDDEN), costs=Costs(only=CUT)
    )
    kinds = [c.kind for c in map(collective_of, program.operations) if c]
    assert kinds == ["slice", "reduce_scatter", "all_gather"]
    last = collective_of(program.operations[-2])
    assert last is not None
    assert edge_of(last) == "norm -> select"


def test_a_part_of_what_is_gathered_is_a_slice() -> None:
    """Two readers, one of all tokens and one of a group's: gathered once, whoever comes first."""
    mesh = Mesh(4, {"attn_dp": 2, "attn_tp": 2, "moe_tp": 4})
    both = {"attn_dp": Shard("tokens"), "attn_tp": Shard("tokens")}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = Step(Spec(TOKENS, HIDDEN, moe_tp=Replicate()), Spec(TOKENS, HIDDEN, moe_tp=Partial()))
            self.own = Step(Spec(TOKENS, HIDDEN, attn_tp=Replicate()), Spec(TOKENS, HIDDEN, attn_tp=Partial()))

        def forward(self, batch: Any) -> Any:
            x = batch.x
            return self.all(x) + self.own(x)

    program = compile_model(
        Model(), mesh, inputs={"batch.x": Spec(TOKENS, HIDDEN, **both)}, gives=Spec(TOKENS, HIDDEN, **both)
    )
    found = [c for c in map(collective_of, program.operations) if c]
    assert [c.kind for c in found if c.kind != "reduce_scatter"] == ["all_gather", "slice"]


def test_a_module_that_names_an_axis_stays_before_the_gather_over_it() -> None:
    """Between an input that is gathered already and an expert; one that says nothing of the axis moves behind."""
    own, whole = Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens")), Spec(TOKENS, HIDDEN, moe_ep=Replicate())

    class Model(nn.Module):
        def __init__(self, between: Spec) -> None:
            super().__init__()
            self.between = Step(between, between)
            self.e, self.f = (Step(whole, Spec(TOKENS, HIDDEN, moe_ep=Partial())) for _ in "ef")

        def forward(self, batch: Any) -> Any:
            x = batch.x
            return self.e(x) + self.f(self.between(x))

    def layout(between: Spec) -> tuple[Any, ...]:
        mesh = Mesh(2, {"attn_dp": 2, "moe_ep": 2})
        program = compile_model(Model(between), mesh, inputs={"batch.x": own}, gives=own)
        return next(op for op in program.operations if isinstance(op, Call) and op.path == "between").outs[0].layout

    assert layout(own) == (Shard("tokens"),)
    assert layout(Spec(TOKENS, HIDDEN)) == (Replicate(),)


def test_a_sum_that_is_read_twice_is_not_reduced_in_place() -> None:
    """An all-reduce may write to its addends only where nothing reads them afterwards."""
    seen: list[tuple[str, bool]] = []

    class Recorder:
        def collective(self, op: Any, *, reuse: bool) -> Any:
            seen.append((op.kind, reuse))
            return None

        start = collective

        def reduce_then_norm(self, fused: Any, *, reuse: bool) -> Any:
            raise AssertionError

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.select = columns(), rows(), SelectRows(HIDDEN)
            self.whole = Step(Spec(TOKENS, HIDDEN), Spec(TOKENS, HIDDEN))

        def forward(self, batch: Any) -> Any:
            x = self.down(self.up(batch.x))
            return self.select(self.whole(x), batch.first) + self.select(x, batch.second)

    program = compile_model(Model(), Mesh(2, {"attn_tp": 2}), inputs=INPUTS, gives=Spec(SAMPLES, HIDDEN))
    lower(program, Recorder())
    assert seen == [("all_reduce", False), ("all_reduce", True)]
    assert summarize(program, itemsize=4).collectives == {"all_reduce": 2}


@pytest.mark.parametrize("reuse", [False, True])
def test_memory_that_is_read_again_is_left_alone(monkeypatch: pytest.MonkeyPatch, reuse: bool) -> None:
    class Done:
        def wait(self) -> None:
            pass

    def double(x: Tensor, *_: Any, **__: Any) -> Done:
        x.mul_(2)
        return Done()

    monkeypatch.setattr(collectives.dist, "all_reduce", double)
    addends = torch.ones(3)
    out = collectives.all_reduce("sum", None, reuse=reuse)(addends, None).wait()
    assert out.tolist() == [2, 2, 2]
    assert addends.tolist() == ([2, 2, 2] if reuse else [1, 1, 1])

    class Batch:
        dp_sizes = ()
        tokens = torch.zeros(3)

    rows_held = torch.arange(6.0).view(3, 2)
    sizes = Sizes(extents=tuple(token_extent(PAIR, (0,), rank) for rank in (0, 1)))
    part = collectives.local_slice(0, sizes, 1, reuse=reuse)(rows_held, Batch())
    part.zero_()
    assert rows_held[2].tolist() == ([0, 0] if reuse else [4, 5])


def test_a_wrong_annotation_of_a_real_model_names_the_edge_and_the_fix() -> None:
    """A norm that claims to take the sum that the block before it has already added up."""
    config = named_config("kimi-k2.5")
    built = build(config, Mesh.single(), dtype=torch.bfloat16, device=torch.device("cpu"), positions=1)
    model: Any = built.model
    hidden = Dim("hidden", config.hidden_size)
    qkv = model.layers[3].attention.qkv_a
    qkv.boundary = Boundary((Spec(TOKENS, hidden, attn_tp=Partial()),), qkv.boundary.gives)
    with pytest.raises(CompileError) as caught:
        compile_plans(model, Mesh.single(), inputs=model.inputs, gives=model.gives)
    message = str(caught.value)
    assert message.startswith("layers.3.input_norm -> layers.3.attention.qkv_a: ")
    assert "gives Replicate() on attn_tp" in message
    assert "takes Partial(sum)" in message
    assert "Declare that layers.3.input_norm gives Partial(sum), or that layers.3.attention.qkv_a takes" in message


def test_a_batch_that_leaves_out_a_group_is_refused() -> None:
    mesh = Mesh(4, {"attn_dp": 2, "attn_tp": 2})
    sizes = Sizes(extents=tuple(token_extent(mesh, (0,), rank) for rank in (0, 2)), groups=2)
    assert sizes.of((3, 0)) == [3, 0]
    with pytest.raises(MeshError, match="tells the tokens of 1 groups, the mesh has attn_dp=2"):
        sizes.of((3,))


def test_what_a_model_returns_is_cut_as_its_batch_is() -> None:
    """Tokens kept cut over attn_tp are gathered for the caller; those of other groups are not."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mesh = Mesh(4, {"attn_dp": 2, "attn_tp": 2})
            self.up = Linear(HIDDEN, INNER, {"w": 12}, mesh, columns="attn_tp")
            self.down = Linear(INNER, HIDDEN, {"w": 8}, mesh, rows="attn_tp")
            self.norm = RMSNorm(HIDDEN, 1e-5, torch.float32)

        def forward(self, batch: Any) -> Any:
            return self.norm(self.down(self.up(batch.x)))

    program = compile_model(
        Model(),
        Mesh(4, {"attn_dp": 2, "attn_tp": 2}),
        inputs={"batch.x": Spec(TOKENS, HIDDEN, attn_dp=Shard("tokens"))},
        gives=Spec(TOKENS, HIDDEN),
        costs=Costs(only=CUT),
    )
    assert [c.kind for c in map(collective_of, program.operations) if c] == ["reduce_scatter", "all_gather"]
    assert program.result is not None
    assert program.result.layout == (Shard("tokens"), Replicate())
