"""A draft's checkpoint folder together with its target's, from which it takes what it leaves out."""

from collections.abc import Mapping
from pathlib import Path

from .folder import CheckpointFolder
from .safetensors import SafetensorsFile


class SharingFolder(CheckpointFolder):
    """``folder``, where ``shared`` maps names to those of ``target`` for tensors that ``folder`` does not hold."""

    def __init__(self, folder: Path, target: CheckpointFolder, shared: Mapping[str, str]) -> None:
        super().__init__(folder)
        held = set(self.names())
        self._target = target
        self._shared = {ours: theirs for ours, theirs in shared.items() if ours not in held}

    def __contains__(self, name: str) -> bool:
        return self._shared[name] in self._target if name in self._shared else super().__contains__(name)

    def find(self, name: str) -> tuple[SafetensorsFile, str]:
        """The file that holds a tensor, and what it is called there."""
        return self._target.find(self._shared[name]) if name in self._shared else super().find(name)
