"""Placement algebra: how tensors lie on a mesh, and which collective turns one layout into another."""

from .convert import Layout, Step, convert, refusal
from .extents import Extent, part_of, token_extent
from .mesh import AXES, MAX_WORLD, VIEWS, Mesh
from .placements import REPLICATE, Partial, Placement, Replicate, Shard
from .spec import BATCH_DIMS, COPIES, OPAQUE, SAMPLES, TOKENS, Boundary, Dim, Gives, Opaque, Routed, Spec

__all__ = [
    "AXES",
    "BATCH_DIMS",
    "COPIES",
    "MAX_WORLD",
    "OPAQUE",
    "REPLICATE",
    "SAMPLES",
    "TOKENS",
    "VIEWS",
    "Boundary",
    "Dim",
    "Extent",
    "Gives",
    "Layout",
    "Mesh",
    "Opaque",
    "Partial",
    "Placement",
    "Replicate",
    "Routed",
    "Shard",
    "Spec",
    "Step",
    "convert",
    "part_of",
    "refusal",
    "token_extent",
]
