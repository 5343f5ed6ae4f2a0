"""Mixture of experts. Legend: T tokens, E experts, k experts a token, D hidden, I intermediate of an expert."""

from ..activation.gates import Gated
from ..quantize.formats import Int4Weight, quantize_int4
from .builder import ExpertsBuilder
from .layer import experts, prepare_experts
from .permutation import Permutation
from .pieces import combine, grouped_linear, permute
from .routing import route_sigmoid, route_softmax
from .weights import ExpertWeights

__all__ = [
    "ExpertWeights",
    "ExpertsBuilder",
    "Gated",
    "Int4Weight",
    "Permutation",
    "combine",
    "experts",
    "grouped_linear",
    "permute",
    "prepare_experts",
    "quantize_int4",
    "route_sigmoid",
    "route_softmax",
]
