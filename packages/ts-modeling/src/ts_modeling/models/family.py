"""What a model's folder gives to the registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from ..checkpoint.table import Table
from ..configuration import ModelConfig
from ..errors import ConfigError
from ..kv import KvSpec
from ..layers.leaf import AnnotatedModel
from ..placement import Mesh
from ..vision import TowerShape

C = TypeVar("C", bound=ModelConfig)


@dataclass(frozen=True, kw_only=True)
class VisionPart(Generic[C]):
    """A model's vision tower, which is built with it and compiled on its own."""

    configure: Callable[[C, Mapping[str, Any]], C]
    """A configuration, and the content of ``config.json`` -> one with its tower. Raises ``ConfigError``."""
    shape: Callable[[C], TowerShape | None]
    """Of a configuration; None where it is without its tower, and so is the model."""
    tower: Callable[[Any], AnnotatedModel]
    """Of a model that has one; it takes a ``VisionBatch``."""


@dataclass(frozen=True, kw_only=True)
class Family(Generic[C]):
    """One model: what its checkpoints are called, and how to read, build, fill and cache it.

    Raises ``ConfigError`` for architectures that are no tuple of names, a configuration that is no class, and functions
    that are none.
    """

    architectures: tuple[str, ...]
    """Names in ``config.json``, as transformers has them."""
    config: type[C]
    parse_config: Callable[[Mapping[str, Any]], C]
    """Of the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    model: Callable[..., AnnotatedModel]
    """Of (config, mesh, *, dtype, device, positions): without weights, for sequences of up to ``positions``."""
    checkpoint_table: Callable[[C], Table]
    kv_spec: Callable[[C, Mesh, torch.dtype], KvSpec]
    """What one rank of a mesh caches, in that type."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Tensors that a draft head may leave to its target, and the module of the target that has each."""
    check_target: Callable[[C, ModelConfig], None] | None = None
    """Of a draft head: raises ``ConfigError`` for a target that it was not made for."""
    vision: VisionPart[C] | None = None
    """None: the model sees nothing."""
    mtp: "Family[Any] | None" = None
    """The layer for multi-token prediction in its checkpoints, as a draft of its own. None: the model has none."""

    def __post_init__(self) -> None:
        names: object = self.architectures
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"Family: architectures = {names!r}; give a tuple of names, as ('LlamaForCausalLM',)")
        config: object = self.config
        if not isinstance(config, type):
            raise ConfigError(f"Family: config = {config!r}; give the class of its configurations")
        for name in ("parse_config", "model", "checkpoint_table", "kv_spec"):
            if not callable(getattr(self, name)):
                raise ConfigError(f"Family: {name} = {getattr(self, name)!r}; give a function")
