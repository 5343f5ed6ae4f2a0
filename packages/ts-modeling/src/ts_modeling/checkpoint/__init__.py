"""Reading checkpoints: safetensors only, every tensor accounted for."""

from .dummy import fill_with_dummies
from .folder import CheckpointFolder, read_json
from .loader import Progress, load_weights
from .pool import Pool
from .safetensors import SafetensorsFile, TensorInfo
from .shared import SharingFolder
from .table import Entry, Table, fused_entries, linear_entries

__all__ = [
    "CheckpointFolder",
    "Entry",
    "Pool",
    "Progress",
    "SafetensorsFile",
    "SharingFolder",
    "Table",
    "TensorInfo",
    "fill_with_dummies",
    "fused_entries",
    "linear_entries",
    "load_weights",
    "read_json",
]
