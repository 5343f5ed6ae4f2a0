"""From a checkpoint folder to a compiled model that runs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .batch import ForwardBatch
from .checkpoint import CheckpointFolder, Pool, Progress, SharingFolder, fill_with_dummies, load_weights
from .communication import Communicator
from .compiler import Costs, Forward, Plans, lower_plans
from .configuration import ModelConfig
from .errors import CheckpointError, ConfigError
from .kv import KvSpec, LayerCache
from .layers import AnnotatedModel, Experts
from .placement import Mesh
from .registry import Built, build, check_mesh, family_of, kv_spec, read_config, table_of
from .sampler import LoadedSampler
from .tower import LoadedVision

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS: Final = ("auto", "safetensors", "dummy")
LOG: Final = logging.getLogger("ts_modeling")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with weights, compiled for this rank.

    ``forward(batch, cache)`` takes a ``ForwardBatch`` and the tensors of ``new_cache`` and returns logits, fp32 [S, V].
    With ``feature_layers`` it returns a pair: logits, and those layers' outputs side by side [T, layers * D], after
    them the ``final_states`` [T, D]; a draft returns logits and the hidden states of its next step [S, D].
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
    column_ids: Tensor | None = None
    """Token of each column of a draft's logits, int64 [V]; None where they are the columns' numbers."""
    sampler: LoadedSampler | None = None
    """What draws tokens of logits that are cut over the vocabulary, where ``candidates`` were asked for."""
    vision: LoadedVision | None = None
    """The vision tower, where it was asked for."""
    weights: Pool = field(default_factory=dict, repr=False)
    """Weights that another model may ``share``."""

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
    vision: bool = False,
    progress: Progress | None = None,
    feature_layers: Sequence[int] = (),
    final_states: bool = False,
    candidates: int = 0,
    draft: str | None = None,
    target: str | Path | None = None,
    share: LoadedModel | None = None,
    costs: Costs | None = None,
) -> LoadedModel:
    """Read, check, compile and prepare a checkpoint folder's model for one rank of ``mesh`` (one rank by default).

    ``dtype`` (activations) and ``kv_dtype``: ``auto``, ``float32`` or ``bfloat16``. ``load_format`` ``dummy`` makes
    random weights from ``config.json`` alone. ``max_positions`` above 0 shortens the longest sequence. ``vision``
    loads the vision tower too; without it neither its weights nor its part of the configuration are looked at, and the
    compiled model is that of text alone. ``progress`` is called with (bytes done, bytes in total, module).
    ``feature_layers`` (from 0, rising) makes the model give their outputs beside its logits, ``final_states`` what its
    head reads: after the last layer and the final norm. ``candidates`` above 0 leaves logits cut over the ranks of
    ``attn_tp``, fp32 [S, V / ranks], and gives the model a ``sampler``, to which each of them sends that many.
    ``draft`` ``mtp`` loads the folder's layer for multi-token prediction in place of the model. ``target`` is the
    checkpoint folder of the model that a draft head with a folder of its own is for: the head takes from it what it
    leaves out, and as many positions. ``share`` is a model loaded before (a draft's target): an embedding or head that
    both read from the same tensors, and hold cut and stored alike, is held once. ``costs`` is what the compiler chooses
    plans for.
    Raises ``ConfigError``, ``CheckpointError``, ``MeshError``, ``CompileError`` or ``CommunicationError``.
    """
    folder, place, place_on = Path(checkpoint_dir), _device(device), mesh if mesh is not None else Mesh.single()
    check_mesh(place_on)
    if type(max_positions) is not int or max_positions < 0:
        raise ConfigError(f"max_positions = {max_positions!r}; give a whole number, 0 for as many as the model has")
    if type(candidates) is not int or candidates < 0:
        raise ConfigError(f"candidates = {candidates!r}; give a whole number, 0 for logits that are gathered")
    if load_format not in FORMATS:
        raise ConfigError(f"load_format = {load_format!r}; choose one of {', '.join(FORMATS)}")
    if draft is not None and target is not None:
        raise ConfigError(f"draft = {draft!r} lies in its target's own folder; leave target out")
    if share is not None and load_format == "dummy":
        raise ConfigError("load_format = 'dummy' reads no tensors to share; leave share out")
    config = read_config(folder, vision=vision, draft=draft)
    activations, kv = choose_dtypes(dtype, kv_dtype, place)
    if config.quantization and config.quantization.cache:
        message = "%s asks for an FP8 cache (%s): it is held in %s, no less precise, and scales of FP8 are not read"
        LOG.warning(message, folder / "config.json", config.quantization.cache, _name(kv))
    longest = _longest(config, Path(target) if target is not None else None)
    positions = min(max_positions or longest, longest)
    pool: Pool = dict(share.weights) if share else {}
    weights = None if load_format == "dummy" else _weights(folder, config, Path(target) if target is not None else None)
    with torch.no_grad():
        built = build(
            config,
            place_on,
            dtype=activations,
            device=place,
            positions=positions,
            feature_layers=feature_layers,
            final_states=final_states,
            candidates=candidates,
            costs=costs,
        )
        settings = f"{activations}, {kv} cache, {positions} positions, plans from {built.plans.since}, {config}"
        communicator = Communicator(*built.plans.programs, settings=settings)  # ranks meet before weights are read
        if weights is None:
            fill_with_dummies(built.model, device=place)
        else:
            _tell_rounded(built.model, folder)
            table = table_of(config)
            load_weights(built.model, weights, table, device=place, progress=progress, dtype=activations, pool=pool)
    code, forward = _lowered(built.plans, communicator)
    spec = kv_spec(config, place_on, dtype=kv)
    columns, sampler, tower = built.model.column_ids, _sampler(built), _tower(built, activations, place)
    return LoadedModel(config, spec, code, forward, activations, kv, place, columns, sampler, tower, pool)


def _longest(config: ModelConfig, target: Path | None) -> int:
    """Positions that a model may have: its own, or its target's. Raises ``ConfigError`` for a target of another's."""
    if target is None:
        return config.max_position_embeddings
    check = family_of(config).check_target
    if check is None:
        raise ConfigError(f"target = {str(target)!r}: only draft heads have a target; leave it out for this model")
    theirs = read_config(target)
    check(config, theirs)
    return theirs.max_position_embeddings


def _weights(folder: Path, config: ModelConfig, target: Path | None) -> CheckpointFolder:
    """The folder, together with its target's for what a draft head may leave out."""
    shared = family_of(config).shared
    if target is not None and shared:
        entries = table_of(read_config(target)).entries
        theirs = {e.module: e.name for e in entries if e.module in shared.values() and e.part.endswith("weight")}
        names = {ours: theirs[module] for ours, module in shared.items() if module in theirs}
        return SharingFolder(folder, CheckpointFolder(target), names)
    weights = CheckpointFolder(folder)
    missing = [name for name in shared if name not in weights]
    if missing:
        raise CheckpointError(f"{folder}: {missing[0]} missing: the draft takes it from its target; give target=FOLDER")
    return weights


def _tell_rounded(model: AnnotatedModel, folder: Path) -> None:
    """Say of which experts more is rounded than their formats do: kernels take both matrices in one."""
    leaves = ((path, leaf) for path, leaf in model.named_modules() if isinstance(leaf, Experts))
    mixed = [(path, leaf) for path, leaf in leaves if leaf.gate_up.scheme != leaf.down.scheme]
    if mixed:
        (path, first), others = mixed[0], len(mixed) - 1
        LOG.warning(
            "%s: %s (and %d more) has gate and up in %s, down in %s: no kernel takes two formats, so what is quantized "
            "of them is rounded to bf16",
            *(folder, path, others, first.gate_up.scheme, first.down.scheme),
        )


def _lowered(plans: Plans, communicator: Communicator) -> tuple[str, Forward]:
    code, forward = lower_plans(plans, communicator)
    assert forward is not None
    return code, communicator.checked(forward)


def _sampler(built: Built) -> LoadedSampler | None:
    if built.sampler is None:
        return None
    code, forward = _lowered(built.sampler.plans, Communicator(*built.sampler.plans.programs))
    _, gather = _lowered(built.sampler.gather, Communicator(*built.sampler.gather.programs))
    part = built.sampler.model.candidates
    return LoadedSampler(part.count, part.start, code, forward, gather)


def _tower(built: Built, dtype: torch.dtype, device: torch.device) -> LoadedVision | None:
    if built.vision is None:
        return None
    code, forward = _lowered(built.vision.plans, Communicator(*built.vision.plans.programs))
    return LoadedVision(built.vision.shape, code, forward, dtype, device)


def _device(device: str | torch.device) -> torch.device:
    """One that there is. Raises ``ConfigError``."""
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device = {device!r} is none that torch knows; give cpu, cuda or cuda:0") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(f"device = {str(place)!r}: this process sees {there} CUDA devices; give one of them, or cpu")
    return place


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
    name = _name(value)
    if name not in DTYPES:
        raise ConfigError(f"{field} = {name!r}; choose auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def _name(dtype: str | torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__: Sequence[str] = ["ForwardBatch", "LoadedModel", "choose_dtypes", "load_model"]
