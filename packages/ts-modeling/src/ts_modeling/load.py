"""From a checkpoint folder to a compiled model that runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from .batch import ForwardBatch
from .checkpoint import CheckpointFolder, Progress, fill_with_dummies, load_weights
from .communication import Communicator
from .compiler import Costs, Forward, lower_plans
from .configuration import ModelConfig
from .errors import ConfigError
from .kv import KvSpec, LayerCache
from .placement import Mesh
from .registry import build, kv_spec, read_config, table_of

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS: Final = ("auto", "safetensors", "dummy")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with weights, compiled for this rank.

    ``forward(batch, cache)`` takes a ``ForwardBatch`` and the tensors of ``new_cache`` and returns logits, fp32 [S, V].
    """

    config: ModelConfig
    kv_spec: KvSpec
    code: str
    """Source of ``forward``."""
    forward: Forward
    dtype: torch.dtype
    """Of activations."""
    kv_dtype: torch.dtype
    device: torch.device

    def new_cache(self, num_pages: int, page_size: int, *, num_states: int = 0) -> list[LayerCache]:
        """Zeroed cache in layer order, as ``kv_spec`` describes it; ``num_states`` slots of running states."""
        return self.kv_spec.new_cache(
            num_pages=num_pages, page_size=page_size, num_states=num_states, device=self.device
        )


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
    costs: Costs | None = None,
) -> LoadedModel:
    """Read, check, compile and prepare a checkpoint folder's model for one rank of ``mesh`` (one rank by default).

    ``dtype`` (activations) and ``kv_dtype``: ``auto``, ``float32`` or ``bfloat16``. ``load_format`` ``dummy`` makes
    random weights from ``config.json`` alone. ``max_positions`` above 0 shortens the longest sequence. ``progress`` is
    called with (bytes done, bytes in total, module). ``costs`` is what the compiler chooses plans for.
    Raises ``ConfigError``, ``CheckpointError``, ``MeshError`` or ``CompileError``.
    """
    folder, place = Path(checkpoint_dir), torch.device(device)
    if load_format not in FORMATS:
        raise ConfigError(f"load_format = {load_format!r}; choose one of {', '.join(FORMATS)}")
    config = read_config(folder)
    activations, kv = choose_dtypes(dtype, kv_dtype, place)
    positions = min(max_positions or config.max_position_embeddings, config.max_position_embeddings)
    place_on = mesh or Mesh.single()
    with torch.no_grad():
        built = build(config, place_on, dtype=activations, device=place, positions=positions, costs=costs)
        if load_format == "dummy":
            fill_with_dummies(built.model, device=place)
        else:
            weights = CheckpointFolder(folder)
            load_weights(built.model, weights, table_of(config), device=place, progress=progress, dtype=activations)
    code, forward = lower_plans(built.plans, Communicator(*built.plans.programs))
    assert forward is not None
    spec = kv_spec(config, place_on, dtype=kv)
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


def _dtype(field: str, value: str | torch.dtype, automatic: torch.dtype) -> torch.dtype:
    if value == "auto":
        return automatic
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"{field} = {name!r}; choose auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


__all__: Sequence[str] = ["ForwardBatch", "LoadedModel", "choose_dtypes", "load_model"]
