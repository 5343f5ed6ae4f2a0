"""What the package gives to others."""

from .batch import ForwardBatch, StateRows
from .communication import join, leave
from .configuration import ModelConfig
from .errors import (
    CheckpointError,
    CommunicationError,
    CompileError,
    ConfigError,
    MediaError,
    MeshError,
    ModelingError,
    PlacementError,
)
from .kv import CacheGroup, KvSpec, LayerCache
from .load import LoadedModel, load_model
from .placement import Mesh
from .registry import kv_spec, read_config
from .sampler import LoadedSampler, SampledRows

__all__ = [
    "CacheGroup",
    "CheckpointError",
    "CommunicationError",
    "CompileError",
    "ConfigError",
    "ForwardBatch",
    "KvSpec",
    "LayerCache",
    "LoadedModel",
    "LoadedSampler",
    "MediaError",
    "Mesh",
    "MeshError",
    "ModelConfig",
    "ModelingError",
    "PlacementError",
    "SampledRows",
    "StateRows",
    "join",
    "kv_spec",
    "leave",
    "load_model",
    "read_config",
]
