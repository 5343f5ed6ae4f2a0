"""From a model's module graph to straight-line code for one rank of a mesh."""

from collections.abc import Mapping

from torch import nn

from ..placement import Gives, Mesh, Spec
from .choose import Plans, Traced, plans, policies
from .cost import Costs, wire_bytes
from .explain import difference, explain
from .lower import Collectives, Forward, lower, lower_plans
from .policy import Policy
from .program import Program
from .propagate import propagate
from .summary import Summary, summarize

CHECK_MESH = Mesh(4, {"attn_dp": 2, "attn_tp": 2, "dense_tp": 2, "moe_ep": 2, "moe_tp": 2})
"""A mesh with every axis, on which annotations are checked even when the model runs on one rank."""

__all__ = [
    "CHECK_MESH",
    "Collectives",
    "Costs",
    "Forward",
    "Plans",
    "Policy",
    "Program",
    "Summary",
    "compile_model",
    "compile_plans",
    "difference",
    "explain",
    "lower",
    "lower_plans",
    "policies",
    "propagate",
    "summarize",
    "wire_bytes",
]


def compile_plans(
    model: nn.Module, mesh: Mesh, *, inputs: Mapping[str, Spec], gives: Gives, costs: Costs | None = None
) -> Plans:
    """Trace ``model``, place every edge for ``mesh``, and keep the plan that is cheapest for each number of tokens.

    ``inputs`` annotates the expressions that hold placed inputs; ``gives`` the result, or each
    of several. Raises ``CompileError``.
    """
    traced = Traced.of(model, inputs, gives)
    propagate(traced.short, model, CHECK_MESH, inputs, gives, check_sizes=False)
    return plans(traced, mesh, costs or Costs())


def compile_model(
    model: nn.Module,
    mesh: Mesh,
    *,
    inputs: Mapping[str, Spec],
    gives: Gives,
    costs: Costs | None = None,
    tokens: int = 1,
) -> Program:
    """The one plan of ``compile_plans`` for steps of ``tokens``."""
    return compile_plans(model, mesh, inputs=inputs, gives=gives, costs=costs).at(tokens)
