"""From the name that a user typed to a checkpoint folder, saying which place it came from and why not another."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from ts_entry import hub
from ts_entry.catalog import Entry, read_catalog
from ts_entry.checkpoint import IncompleteError, Inspection, inspect
from ts_entry.config import ServeConfig, suggestion
from ts_entry.errors import CheckpointError, MemoryShortError, ModelNotFoundError, UsageError
from ts_entry.machine import Machine, free_disk, size_text
from ts_entry.settings import Settings

EXTRA_ARCHITECTURES: Final = frozenset(
    {
        "DeepseekV3ForCausalLM",
        "GptOssForCausalLM",
        "LlamaForCausalLM",
        "MiniMaxM2ForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen3MoeForCausalLM",
    }
)
"""Served from a folder or a repository although no catalog entry has them."""
PLUGINS: Final = "ts_modeling.families"
"""Entry points of other packages' models, each called after its architecture; they are found, not loaded."""
MEMORY_SHARE: Final = 0.95
"""Of the free memory that weights may take; the rest is for the cache and the processes."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is served. ``name`` is what it truly is; ``source`` and ``notes`` are for the banner."""

    folder: Path
    name: str
    aliases: tuple[str, ...]
    miniature: bool
    source: str
    notes: tuple[str, ...]
    """Why the places before this one were not taken."""
    inspection: Inspection
    claim: str | None = None
    """Whose word it is that this is the catalog's model, where the folder itself does not show it."""


@dataclass(kw_only=True)
class Resolver:
    """One search. ``say`` gets lines about things that take long."""

    config: ServeConfig
    settings: Settings
    machine: Machine
    say: Callable[[str], None]
    catalog: dict[str, Entry] = field(default_factory=read_catalog)
    notes: list[str] = field(default_factory=list)

    def resolve(self) -> Checkpoint:
        """The checkpoint.

        Raises:
            ModelNotFoundError, CheckpointError, MemoryShortError: there is none that can be served.
        """
        typed = self.config.model
        entry = next((entry for entry in self.catalog.values() if entry.is_called(typed)), None)
        if self.config.weights is not None:
            return self._folder(Path(self.config.weights), "--weights", entry)
        if looks_like_path(typed) or (entry is None and Path(typed).expanduser().is_dir()):
            return self._folder(Path(typed), "--model", None)
        if entry is None and typed.count("/") != 1:
            raise self._unknown(typed)
        repository = entry.repository if entry is not None else typed
        found = self._from_models_folder(entry, typed) or self._from_hub(entry, repository)
        if found is not None:
            return found
        return self._miniature(entry, typed)

    # --- places ---------------------------------------------------------------------------------------------------

    def _folder(self, path: Path, source: str, entry: Entry | None) -> Checkpoint:
        return self._take(path.expanduser(), f"given as {source}", entry, word="--model")

    def _from_models_folder(self, entry: Entry | None, typed: str) -> Checkpoint | None:
        root = self.settings.models
        if root is None:
            self.notes.append("TS_MODELS is not set")
            return None
        names = [typed]
        if entry is not None:
            names += [entry.name, entry.repository, entry.repository.rpartition("/")[2]]
        for name in names:
            if (root / name).is_dir():
                return self._take(root / name, "found in $TS_MODELS", entry, word="the folder's name")
        self.notes.append(f"not in $TS_MODELS ({root})")
        return None

    def _from_hub(self, entry: Entry | None, repository: str) -> Checkpoint | None:
        cached = self._cached(entry, repository)
        if cached is not None:
            return cached
        if not self.config.download:
            self.notes.append("the hub was not asked (--no-download)")
            return None
        remote = hub.ask_hub(self.settings, repository, self.config.revision)
        problem = remote.problem or self._why_not_fetch(repository, remote.size)
        if problem:
            self.notes.append(problem)
            return None
        cache = self.settings.hub_cache
        self.say(f"fetching {repository}, {size_text(remote.size)}, to {cache}; Ctrl-C stops, the next start goes on")
        hub.download(self.settings, repository, self.config.revision)
        folder = hub.cached_snapshot(cache, repository, self.config.revision)
        if folder is None:
            raise ModelNotFoundError(f"{repository} was fetched but is not in {cache}; remove it there and try again")
        return self._take(folder, f"fetched from the hub ({repository})", entry)

    def _cached(self, entry: Entry | None, repository: str) -> Checkpoint | None:
        folder = hub.cached_snapshot(self.settings.hub_cache, repository, self.config.revision)
        if folder is None:
            self.notes.append(f"{repository} is not in the Hugging Face cache")
            return None
        try:
            return self._take(folder, f"found in the Hugging Face cache ({repository})", entry)
        except IncompleteError as error:
            self.notes.append(f"the Hugging Face cache holds only a part: {error}")
            return None

    def _why_not_fetch(self, repository: str, size: int) -> str:
        free, disk = self.machine.free_memory, free_disk(self.settings.hub_cache)
        if size > free * MEMORY_SHARE:
            return f"{repository} needs {size_text(size)} of memory and the {self.machine.title} has {size_text(free)}"
        if size > disk * MEMORY_SHARE:
            return f"{repository} needs {size_text(size)} of disk and {size_text(disk)} are free"
        return ""

    def _miniature(self, entry: Entry | None, typed: str) -> Checkpoint:
        tried = "; ".join(self.notes)
        fix = "give its folder with --weights"
        if entry is None or entry.miniature is None:
            raise ModelNotFoundError(f"no checkpoint of {typed}: {tried}; {fix}")
        if not self.config.miniature:
            raise ModelNotFoundError(f"no checkpoint of {typed}: {tried}; {fix}, or allow --miniature")
        folder = miniature_folder(entry)
        if folder is None or not folder.is_dir():
            raise ModelNotFoundError(
                f"no checkpoint of {typed}: {tried}; and the miniature needs ts-modeling installed"
            )
        return self._take(folder, "the bundled miniature", entry)

    # --- checks ---------------------------------------------------------------------------------------------------

    def _take(self, folder: Path, source: str, entry: Entry | None, *, word: str | None = None) -> Checkpoint:
        """The folder as a checkpoint, if it is whole and fits; ``word`` is who says that it is the entry's."""
        config = self.config
        known = EXTRA_ARCHITECTURES | {name for each in self.catalog.values() for name in each.architectures}
        known |= {entry.name for entry in entry_points(group=PLUGINS)}
        weights = config.load_format != "dummy"
        inspection = inspect(folder, architectures=known, weights=weights)
        if entry is not None and inspection.architecture not in entry.architectures:
            raise CheckpointError(f"{folder} holds a {inspection.architecture}, which is not {entry.title}")
        free = self.machine.free_memory
        if inspection.weight_bytes > free * MEMORY_SHARE:
            raise MemoryShortError(
                f"the weights in {folder} need {size_text(inspection.weight_bytes)} of memory and the "
                f"{self.machine.title} has {size_text(free)} free; use a machine that holds them, or leave the "
                "folder out and the bundled miniature is served"
            )
        miniature = self._which_miniature(inspection, weights=weights)
        name = miniature or (entry.name if entry is not None else folder.resolve().name)
        aliases = () if config.weights is None and looks_like_path(config.model) else (config.model,)
        if config.served_model_name is not None:
            self._check_served_name(config.served_model_name, miniature)
            name, aliases = config.served_model_name, ()
        return Checkpoint(
            folder=folder.resolve(),
            name=name,
            aliases=tuple(alias for alias in aliases if alias != name),
            miniature=miniature is not None,
            source=source,
            notes=tuple(self.notes),
            inspection=inspection,
            claim=f"taken for {entry.title} because {word} says so; only its architecture was checked"
            if entry is not None and word is not None and miniature is None
            else None,
        )

    def _which_miniature(self, inspection: Inspection, *, weights: bool) -> str | None:
        """The name of the miniature that this is, wherever it lies: a copy does not become the full model."""
        for entry in self.catalog.values():
            folder = miniature_folder(entry)
            if entry.miniature is None or folder is None or not folder.is_dir():
                continue
            own = inspect(folder, architectures=frozenset(entry.architectures), weights=weights)
            if own.fingerprint == inspection.fingerprint:
                return entry.miniature.name
        return None

    def _check_served_name(self, name: str, miniature: str | None) -> None:
        if miniature is not None and any(entry.is_called(name) for entry in self.catalog.values()):
            raise UsageError(f"--served-model-name {name}: the miniature cannot carry the full model's name")

    def _unknown(self, typed: str) -> ModelNotFoundError:
        names = [name for entry in self.catalog.values() for name in (entry.name, *entry.aliases)]
        return ModelNotFoundError(
            f"unknown model {typed}{suggestion(typed.casefold(), names)}; known: {', '.join(self.catalog)}, "
            "a hub repository (org/name) or a checkpoint folder"
        )


def looks_like_path(typed: str) -> bool:
    """Whether a model is given as a folder: ``./x``, ``../x``, ``/x``, ``~/x``."""
    return typed.startswith(("/", "./", "../", "~")) or typed in (".", "..")


def miniature_folder(entry: Entry) -> Path | None:
    """Where the bundled miniature of a model lies; ts_modeling is found, not imported."""
    if entry.miniature is None:
        return None
    spec = importlib.util.find_spec("ts_modeling")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / entry.miniature.folder
