"""Layers: annotated leaves, and plain modules made of them."""

from .attention import AttentionShape, GroupedAttention, PagedAttention, kv_group
from .biased import BiasedLinear, GeluMLP
from .capture import CapturingModel
from .columns import FuseFeatures, JoinColumns
from .cuts import CutError, Survey
from .delta import DeltaShape, GatedDeltaNet, state_group
from .draft_vocabulary import DraftVocabulary
from .embedding import Embedding, LMHead
from .layer_norm import LayerNorm
from .leaf import AnnotatedModel, Buffer, Leaf, Slot
from .linear import Linear
from .media import PlaceMedia
from .mixture import GatedShared, Mixture, SoftmaxRouter
from .mla import LatentAttention, MLAAttention, MLAShape
from .mlp import MLP
from .moe import Experts, ExpertsWithShared, MoE, MoEShape, Router
from .norm import AddRMSNorm, HeadColumnsNorm, RMSNorm
from .packed_attention import GridRotary, PackedAttention
from .patches import JoinRows, PatchEmbed, PoolPatches
from .rotary import Rope, RotaryTable, Yarn
from .rows import SelectRows
from .stack import Span, Stack, inner_span, local_size, span

__all__ = [
    "MLP",
    "AddRMSNorm",
    "AnnotatedModel",
    "AttentionShape",
    "BiasedLinear",
    "Buffer",
    "CapturingModel",
    "CutError",
    "DeltaShape",
    "DraftVocabulary",
    "Embedding",
    "Experts",
    "ExpertsWithShared",
    "FuseFeatures",
    "GatedDeltaNet",
    "GatedShared",
    "GeluMLP",
    "GridRotary",
    "GroupedAttention",
    "HeadColumnsNorm",
    "JoinColumns",
    "JoinRows",
    "LMHead",
    "LatentAttention",
    "LayerNorm",
    "Leaf",
    "Linear",
    "MLAAttention",
    "MLAShape",
    "Mixture",
    "MoE",
    "MoEShape",
    "PackedAttention",
    "PagedAttention",
    "PatchEmbed",
    "PlaceMedia",
    "PoolPatches",
    "RMSNorm",
    "Rope",
    "RotaryTable",
    "Router",
    "SelectRows",
    "Slot",
    "SoftmaxRouter",
    "Span",
    "Stack",
    "Survey",
    "Yarn",
    "inner_span",
    "kv_group",
    "local_size",
    "span",
    "state_group",
]
