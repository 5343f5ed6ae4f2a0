"""From a checkpoint folder to a compiled model that runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .batch import ForwardBatch, KvSpec
from .checkpoint import CheckpointFolder, Progress, fill_with_dummies, load_weights
from .communication import Communicator
from .compiler import Forward, lower
from .errors import ConfigError
from .models.kimi_k25 import KimiK25Config
from .placement import Mesh
from .registry import build, kv_spec, read_config, table_of

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HOST_ALIGNMENT: Final = 64
"""Bytes."""
FORMATS: Final = ("auto", "safetensors", "dummy")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with weights, compiled for this rank.

    ``forward(batch, cache)`` takes a ``ForwardBatch`` and the tensors of ``new_cache`` and returns logits, fp32 [S, V].
    """

    config: KimiK25Config
    kv_spec: KvSpec
    code: str
    """Source of ``forward``."""
    forward: Forward
    dtype: torch.dtype
    """Of activations."""
    kv_dtype: torch.dtype
    device: torch.device

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """Zeroed paged cache, one [pages, page_size, width] tensor a layer.

        On the CPU the system clears memory when it is first touched: clearing 2 GiB here takes 3 s of each start.
        """
        shape = (num_pages, page_size, self.kv_spec.width)
        if self.device.type == "cpu":
            return [_host_zeros(shape, self.kv_dtype) for _ in range(self.kv_spec.layers)]
        return [torch.zeros(shape, dtype=self.kv_dtype, device=self.device) for _ in range(self.kv_spec.layers)]


def load_model(
    checkpoint_dir: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    kv_dtype: str | torch.dtype = "auto",
    load_format: str = "auto",
    mesh: Mesh | None = None,
    max_positions: int = 0,
    progress: Progress | None = None,
) -> LoadedModel:
    """Read, check, compile and prepare a checkpoint folder's model for one rank of ``mesh`` (one rank by default).

    ``dtype`` (activations) and ``kv_dtype``: ``auto``, ``float32`` or ``bfloat16``. ``load_format`` ``dummy`` makes
    random weights from ``config.json`` alone. ``max_positions`` above 0 shortens the longest sequence. ``progress`` is
    called with (bytes done, bytes in total, module).
    Raises ``ConfigError``, ``CheckpointError``, ``MeshError`` or ``CompileError``.
    """
    folder, place = Path(checkpoint_dir), torch.device(device)
    if load_format not in FORMATS:
        raise ConfigError(f"load_format = {load_format!r}; choose one of {', '.join(FORMATS)}")
    config = read_config(folder)
    activations, kv = choose_dtypes(dtype, kv_dtype, place)
    positions = min(max_positions or config.max_position_embeddings, config.max_position_embeddings)
    with torch.no_grad():
        built = build(config, mesh or Mesh.single(), dtype=activations, device=place, positions=positions)
        if load_format == "dummy":
            fill_with_dummies(built.model, device=place)
        else:
            weights = CheckpointFolder(folder)
            load_weights(built.model, weights, table_of(config), device=place, progress=progress, dtype=activations)
    code, forward = lower(built.program, Communicator(built.program))
    assert forward is not None
    spec = kv_spec(config, itemsize=kv.itemsize)
    return LoadedModel(config, spec, code, forward, activations, kv, place)


def choose_dtypes(
    dtype: str | torch.dtype, kv_dtype: str | torch.dtype, device: torch.device
) -> tuple[torch.dtype, torch.dtype]:
    """Types of activations and cache. ``auto`` on CPU: float32 activations over a bfloat16 cache; elsewhere bfloat16.

    A ``dtype`` that is given is also the cache's, unless ``kv_dtype`` says otherwise.
    """
    automatic = torch.float32 if device.type == "cpu" else torch.bfloat16
    activations = _dtype("dtype", dtype, automatic)
    return activations, _dtype("kv_dtype", kv_dtype, torch.bfloat16 if dtype == "auto" else activations)


def _host_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written, aligned as torch's own tensors are."""
    size = math.prod(shape) * dtype.itemsize
    raw = torch.from_numpy(np.zeros(size + HOST_ALIGNMENT, np.uint8))
    start = -raw.data_ptr() % HOST_ALIGNMENT
    return raw[start : start + size].view(dtype).view(shape)


def _dtype(field: str, value: str | torch.dtype, automatic: torch.dtype) -> torch.dtype:
    if value == "auto":
        return automatic
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"{field} = {name!r}; choose auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


__all__: Sequence[str] = ["ForwardBatch", "LoadedModel", "choose_dtypes", "load_model"]
