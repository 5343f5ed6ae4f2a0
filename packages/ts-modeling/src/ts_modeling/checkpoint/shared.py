"""A draft's checkpoint folder together with its target's, from which it takes what it leaves out."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .folder import CheckpointFolder
from .safetensors import TensorInfo


class SharingFolder(CheckpointFolder):
    """``folder``, where ``shared`` maps names to those of ``target`` for tensors that ``folder`` does not hold."""

    def __init__(self, folder: Path, target: CheckpointFolder, shared: Mapping[str, str]) -> None:
        super().__init__(folder)
        held = set(self.names())
        self._target = target
        self._shared = {ours: theirs for ours, theirs in shared.items() if ours not in held}

    def __contains__(self, name: str) -> bool:
        return self._shared[name] in self._target if name in self._shared else super().__contains__(name)

    def info(self, name: str) -> TensorInfo:
        """Type and shape of a tensor."""
        return self._target.info(self._shared[name]) if name in self._shared else super().info(name)

    def file(self, name: str) -> Path:
        """File that holds a tensor."""
        return self._target.file(self._shared[name]) if name in self._shared else super().file(name)

    def read(self, name: str) -> Tensor:
        """View of a tensor on its mapped file."""
        return self._target.read(self._shared[name]) if name in self._shared else super().read(name)
