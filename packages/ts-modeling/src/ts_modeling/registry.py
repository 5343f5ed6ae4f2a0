"""Which model a ``config.json`` asks for, and how to build it. A new model is one more entry of ``FAMILIES``, or comes
from outside of the package: by an entry point (``families``), or ``register``ed in one process.
"""

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from .checkpoint import Table, read_json
from .compiler import Costs, Plans, compile_plans
from .configuration import ModelConfig
from .errors import CompileError, ConfigError, MeshError, shown
from .families import installed, load
from .kv import KvSpec
from .layers import AnnotatedModel, CapturingModel, CutError, Survey
from .layers.candidates import GatheredLogits, VocabularySampler
from .models import eagle3, eagle3_mla, gpt_oss, kimi_k25, llama, minimax_m2, qwen3, qwen3_5, qwen3_moe
from .models.family import Family
from .placement import Mesh, Shard, Spec
from .plugins import PluginWarning
from .quantization import CACHE_SCALES
from .vision import TowerShape

FAMILIES: Final[list[Family[Any]]] = [
    eagle3.FAMILY,
    eagle3_mla.FAMILY,
    gpt_oss.FAMILY,
    kimi_k25.FAMILY,
    llama.FAMILY,
    minimax_m2.FAMILY,
    qwen3.FAMILY,
    qwen3_5.FAMILY,
    qwen3_moe.FAMILY,
]
ARCHITECTURES: Final[dict[str, Family[Any]]] = {name: f for f in FAMILIES for name in f.architectures}
OWN: Final = frozenset(ARCHITECTURES)
"""Those of this package, which no plugin replaces."""


@dataclass(frozen=True)
class Tower:
    """A model's vision tower, without weights as the model is."""

    shape: TowerShape
    plans: Plans


@dataclass(frozen=True)
class CutSampler:
    """What draws tokens while logits are cut, and what gathers them."""

    model: VocabularySampler
    plans: Plans
    gather: Plans


@dataclass(frozen=True)
class Built:
    """A model without weights and its compiled plans."""

    model: AnnotatedModel
    plans: Plans
    vision: Tower | None = None
    """Where the configuration has one."""
    sampler: CutSampler | None = None
    """Where candidates were asked for; the model's logits are then cut over the vocabulary."""


def register(family: Family[Any]) -> None:
    """Make ``family`` known in this process alone, as those of ``FAMILIES`` are in every one.

    Raises ``ConfigError`` where another family has one of its architectures, or its type of configuration.
    """
    if family in FAMILIES:
        return
    taken = [name for name in family.architectures if name in ARCHITECTURES]
    if taken:
        raise ConfigError(f"architectures {', '.join(taken)} are another family's; give names of its own")
    if any(each.config is family.config for each in FAMILIES):
        raise ConfigError(f"{family.config.__name__} is another family's; derive a configuration of its own from it")
    FAMILIES.append(family)
    ARCHITECTURES.update(dict.fromkeys(family.architectures, family))


@contextmanager
def restored() -> Iterator[None]:
    """What is registered within the block is taken back at its end."""
    families, architectures = list(FAMILIES), dict(ARCHITECTURES)
    try:
        yield
    finally:
        FAMILIES[:] = families
        ARCHITECTURES.clear()
        ARCHITECTURES.update(architectures)


def read_config(folder: str | Path, *, vision: bool = False, draft: str | None = None) -> ModelConfig:
    """Typed configuration of a checkpoint folder, with its vision tower if asked for; or of its ``draft``.

    Raises ``ConfigError`` naming the file or the field.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: no config.json; give a checkpoint folder")
    return config_from(read_json(path, ConfigError), vision=vision, draft=draft)


def config_from(raw: Mapping[str, Any], *, vision: bool = False, draft: str | None = None) -> ModelConfig:
    """Typed configuration from the content of ``config.json``: of the model, or of its draft ``mtp``."""
    named = raw.get("architectures")
    told = f"config.json: architectures = {shown(named)}"
    names = [n for n in named if isinstance(n, str)] if isinstance(named, list) else []
    if names == ["LlamaForCausalLM"] and "draft_vocab_size" in raw:
        names = ["LlamaForCausalLMEagle3"]  # what the heads of EAGLE3's authors say
    known = _family(names)
    if known is None:
        raise ConfigError(f"{told} is not supported{_nearest(names)}")
    if draft is not None:
        return _draft_config(known, raw, draft, vision)
    config: ModelConfig = known.parse_config(raw)
    if not vision:
        return config
    if known.vision is None:
        raise ConfigError(f"{told} has no vision tower here; load it without vision")
    seeing: ModelConfig = known.vision.configure(config, raw)
    return seeing


def build(
    config: ModelConfig,
    mesh: Mesh,
    *,
    dtype: torch.dtype,
    device: torch.device,
    positions: int,
    feature_layers: Sequence[int] = (),
    final_states: bool = False,
    candidates: int = 0,
    costs: Costs | None = None,
) -> Built:
    """Construct and compile the model for ``mesh``; with ``feature_layers`` it gives their outputs beside the logits,
    with ``final_states`` what its head reads. ``candidates`` above 0 leaves logits cut, and compiles a sampler of them.

    Raises ``CompileError``, ``MeshError``, or ``ConfigError`` for layers that are not there.
    """
    family = family_of(config)
    model = _model(config, mesh, dtype=dtype, device=device, positions=positions)
    if feature_layers or final_states:
        if not isinstance(model, CapturingModel):
            asked = f"feature_layers = {list(feature_layers)}" if feature_layers else "final_states"
            raise ConfigError(f"{asked}: {type(model).__name__} has none to give")
        model.capture(feature_layers, config.num_hidden_layers, config.hidden_size, final=final_states)
    sampler = _sampler(model, candidates, mesh, costs) if candidates else None
    plans = compile_plans(model, mesh, inputs=model.inputs, gives=model.gives, costs=costs)
    shape = family.vision.shape(config) if family.vision else None
    if family.vision is None or shape is None:
        return Built(model, plans, sampler=sampler)
    tower = family.vision.tower(model)
    seen = compile_plans(tower, mesh, inputs=tower.inputs, gives=tower.gives, costs=costs)
    return Built(model, plans, Tower(shape, seen), sampler)


def _sampler(model: AnnotatedModel, count: int, mesh: Mesh, costs: Costs | None) -> CutSampler:
    """Leave the logits of ``model`` cut, and compile what draws from them."""
    logits, *others = model.gives if isinstance(model.gives, tuple) else (model.gives,)
    cut = Spec(*logits.dims, **{**logits.axes, "attn_tp": Shard(logits.dims[1].name)})
    model.gives = (cut, *others) if others else cut
    draws = VocabularySampler(logits, count, mesh, axis="attn_tp")
    whole = GatheredLogits(logits, axis="attn_tp")
    plans, gather = (compile_plans(m, mesh, inputs=m.inputs, gives=m.gives, costs=costs) for m in (draws, whole))
    return CutSampler(draws, plans, gather)


def _model(config: ModelConfig, mesh: Mesh, **options: Any) -> AnnotatedModel:
    """The model on ``mesh``; an axis that does not fit is told the sizes that fit the whole model."""
    make = family_of(config).model
    try:
        model: object = make(config, mesh, **options)
        if not isinstance(model, AnnotatedModel) or not all(hasattr(model, end) for end in ("inputs", "gives")):
            raise CompileError(
                f"{type(config).__name__}: its family's model is a {type(model).__name__} without annotations; derive "
                "it from AnnotatedModel, and say its inputs and what it gives"
            )
        return model
    except CutError as error:
        survey = Survey()
        make(config, survey, **options)
        together = error.axis == "attn_tp" and mesh.size("dense_tp") == mesh.size("attn_tp")  # it follows unless given
        fits = survey.fits(("attn_tp", "dense_tp") if together else (error.axis,))
        raise CutError(error.problem, error.axis, fits) from None


def table_of(config: ModelConfig) -> Table:
    """Checkpoint tensors of the model. Raises ``ConfigError`` for a quantization that the model does not have.

    Where the file advises an FP8 cache, its factors may be there too.
    """
    table = family_of(config).checkpoint_table(config)
    if not (config.quantization and config.quantization.cache):
        return table
    return replace(table, ignored_suffixes=(*table.ignored_suffixes, *CACHE_SCALES))


def kv_spec(config: ModelConfig, mesh: Mesh, *, dtype: torch.dtype) -> KvSpec:
    """What a rank of ``mesh`` caches in ``dtype``. Raises ``MeshError`` for heads that do not divide, and for no mesh,
    ``ConfigError`` for what is no configuration or no type."""
    check_mesh(mesh)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype = {dtype!r}; give a torch.dtype, as torch.bfloat16")
    spec: object = family_of(config).kv_spec(config, mesh, dtype)
    if not isinstance(spec, KvSpec):
        raise ConfigError(f"{type(config).__name__}: the kv_spec of its family gives {spec!r}; return a KvSpec")
    return spec


def family_of(config: ModelConfig) -> Family[Any]:
    """The model whose configuration this is. Raises ``ConfigError`` where it is none's."""
    families = (f for family in FAMILIES for f in (family, family.mtp) if f)
    known = next((family for family in families if type(config) is family.config), None)
    if known is None:
        raise ConfigError(f"config = {config!r:.80} is no model's configuration; give what read_config returns")
    return known


def check_mesh(mesh: Mesh) -> None:
    """Raise ``MeshError`` for anything but a mesh."""
    if not isinstance(mesh, Mesh):
        raise MeshError(f"mesh = {mesh!r} is no Mesh; give one, as Mesh.parse('attn_tp=2') or what join returns")


def _family(names: Sequence[str]) -> Family[Any] | None:
    """The family of the first architecture that has one: here, registered, or in another package."""
    plugged = installed()
    for name in names:
        if name in OWN and name in plugged:
            message = f"family plugin {name!r} ({plugged[name][0].value}) is left out: ts-modeling has a {name} itself"
            warnings.warn(message, PluginWarning, stacklevel=3)
        elif name not in ARCHITECTURES and name in plugged:
            register(load(plugged[name]))
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    return None


def _draft_config(family: Family[Any], raw: Mapping[str, Any], draft: str, vision: bool) -> ModelConfig:
    if draft != "mtp":
        raise ConfigError(f"draft = {draft!r}; only 'mtp' lies in a model's own folder, other drafts have their own")
    if family.mtp is None:
        having = ", ".join(name for f in FAMILIES if f.mtp for name in f.architectures)
        asked = f"draft = 'mtp': architectures = {shown(raw['architectures'])}"
        raise ConfigError(f"{asked} has none here; known are {having}")
    if vision:
        raise ConfigError("draft = 'mtp' has no vision tower; load it without vision")
    config: ModelConfig = family.mtp.parse_config(raw)
    return config


def _nearest(names: list[str]) -> str:
    known = sorted({*ARCHITECTURES, *installed()})
    close = [match for name in names for match in difflib.get_close_matches(name, known, n=1)]
    meant = f"; the nearest is {close[0]}" if close else ""
    return f"{meant}; known are {', '.join(known)}"
