"""Layers: annotated leaves, and plain modules made of them."""

from .embedding import Embedding, LMHead
from .leaf import Buffer, Leaf, Slot
from .linear import Linear
from .mla import LatentAttention, MLAAttention, MLAShape
from .mlp import MLP
from .moe import Experts, ExpertsWithShared, MoE, MoEShape, Router
from .norm import AddRMSNorm, HeadColumnsNorm, RMSNorm
from .rotary import Yarn, rotary_table
from .rows import SelectRows
from .stack import Span, Stack, local_size, span

__all__ = [
    "MLP",
    "AddRMSNorm",
    "Buffer",
    "Embedding",
    "Experts",
    "ExpertsWithShared",
    "HeadColumnsNorm",
    "LMHead",
    "LatentAttention",
    "Leaf",
    "Linear",
    "MLAAttention",
    "MLAShape",
    "MoE",
    "MoEShape",
    "RMSNorm",
    "Router",
    "SelectRows",
    "Slot",
    "Span",
    "Stack",
    "Yarn",
    "local_size",
    "rotary_table",
    "span",
]
