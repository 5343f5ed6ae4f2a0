"""Layers that are alike are compiled once, and the plan is the one that the whole graph would have."""

from typing import Any

import pytest
import torch
from ts_modeling import Mesh
from ts_modeling.command import named_config
from ts_modeling.compiler import Program, choose, explain, lower, policies
from ts_modeling.compiler.choose import Traced, compiled_for
from ts_modeling.compiler.program import call_of
from ts_modeling.layers import Leaf
from ts_modeling.layers.moe import ExpertsWithShared
from ts_modeling.placement import Dim, Partial, Spec
from ts_modeling.registry import config_from, family_of
from ts_modeling.testing import text_config, tiny_config

EVEN: dict[str, Any] = {"num_attention_heads": 4, "hidden_size": 72, "num_hidden_layers": 8}
HYBRID = {**EVEN, "num_hidden_layers": 24, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 6}
MODELS: dict[str, dict[str, Any]] = {
    "gpt_oss": {**EVEN, "num_local_experts": 8, "intermediate_size": 48, "layer_types": ["sliding_attention"] * 8},
    "llama": EVEN,
    "minimax_m2": {**EVEN, "num_key_value_heads": 1, "num_local_experts": 8, "intermediate_size": 48},
    "qwen3": EVEN,
    "qwen3_5": HYBRID,
    "qwen3_5_moe": {**HYBRID, "num_experts": 8, "moe_intermediate_size": 48},
    "qwen3_moe": {**EVEN, "num_experts": 8, "moe_intermediate_size": 48, "mlp_only_layers": [1]},
}
MESHES = (
    "",
    "attn_tp=2,moe_tp=2",
    "attn_tp=4,moe_tp=2,moe_ep=2",
    "attn_dp=2,moe_ep=2",
    "attn_dp=2,attn_tp=2,moe_ep=4",
    "attn_dp=2,attn_tp=2,moe_ep=4,dense_tp=1",
)


def traced_model(config: Any, mesh: Mesh, features: tuple[int, ...] = ()) -> Traced:
    options: Any = {"dtype": torch.float32, "device": torch.device("cpu"), "positions": 8}
    model: Any = family_of(config).model(config, mesh, **options)
    if features:
        model.capture(features, config.num_hidden_layers, config.hidden_size)
    return Traced.of(model, model.inputs, model.gives)


def told(program: Program) -> tuple[str, str, list[Any]]:
    """All that a plan is: its steps and edges, its code, and the leaves that it calls."""
    leaves = [parts_of(call.leaf) for call in map(call_of, program.operations) if call]
    return explain(program, itemsize=2, every=True), lower(program, None)[0], leaves


def parts_of(leaf: Leaf) -> list[Leaf]:
    """Itself, or the two that the compiler has joined."""
    return list(leaf.parts) if isinstance(leaf, ExpertsWithShared) else [leaf]


def check(traced: Traced, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under every policy, without ever looking at the whole graph."""
    whole = Traced(traced.model, traced.graph, traced.graph, (), traced.inputs, traced.gives)
    for policy in policies(traced.model, mesh):
        wanted = compiled_for(whole, mesh, policy, 4)
        with monkeypatch.context() as patch:
            patch.setattr(choose, "propagate", only(traced.short, choose.propagate))
            assert told(compiled_for(traced, mesh, policy, 4)) == told(wanted)


def only(short: Any, propagate: Any) -> Any:
    def run(graph: Any, *args: Any, **options: Any) -> Any:
        assert graph is short, "the plans of alike layers differ, and every layer is compiled"
        return propagate(graph, *args, **options)

    return run


@pytest.mark.parametrize("text", MESHES)
def test_the_plan_of_alike_layers_is_that_of_the_whole_graph(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh.parse(text)
    configs = [config_from(tiny_config(model, **changes)) for model, changes in MODELS.items()]
    configs.append(config_from(text_config(int4=False, num_hidden_layers=8, q_lora_rank=16, kv_lora_rank=16)))
    for config in configs:
        traced = traced_model(config, mesh)
        assert traced.runs, f"{type(config).__name__} has alike layers"
        check(traced, mesh, monkeypatch)


def test_layers_that_are_captured_are_no_part_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config, mesh = config_from(tiny_config("llama", **{**EVEN, "num_hidden_layers": 20})), Mesh.parse("attn_tp=2")
    traced = traced_model(config, mesh, (1, 10, 17))
    assert len(traced.runs) == 2
    check(traced, mesh, monkeypatch)


def test_sixty_of_61_layers_are_four() -> None:
    traced = traced_model(named_config("kimi-k2.5"), Mesh.parse("attn_tp=4,moe_tp=4"))
    calls = [str(node.target) for node in traced.short.nodes if node.op == "call_module"]
    assert {path.split(".")[1] for path in calls if path.startswith("layers.")} == {"0", "1", "2", "3", "4", "60"}


def test_one_layer_that_is_annotated_otherwise_is_looked_at() -> None:
    """Else its error, or its collectives, would be another layer's."""
    config, mesh = config_from(tiny_config("llama", **{**EVEN, "num_hidden_layers": 20})), Mesh.parse("attn_tp=2")
    traced = traced_model(config, mesh)
    model: Any = traced.model
    other: Leaf = model.layers[12].mlp
    hidden = Dim("hidden", 72)
    other.boundary = type(other.boundary)(other.boundary.takes, (Spec(other.boundary.gives[0].dims[0], hidden),))
    again = Traced.of(model, traced.inputs, traced.gives)
    assert [run.times for run in traced.runs] == [18]
    assert [run.times for run in again.runs] == [10, 6]
    assert other.boundary.gives[0].axes == {}
    assert Partial() in model.layers[11].mlp.boundary.gives[0].axes.values()
