"""A checkpoint folder: which safetensors file holds which tensor."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..errors import CheckpointError, ConfigError, shown
from .safetensors import SafetensorsFile, TensorInfo, Window, check_name, once

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON: Final = 64 << 20


class CheckpointFolder:
    """Tensors of a folder with one ``model.safetensors`` or an index of several files, opened and checked.

    Raises ``CheckpointError`` naming the file. Code and pickled weights in the folder are never touched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, SafetensorsFile] = {}
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; give a folder with config.json and safetensors files")
        if (folder / INDEX).is_file():
            self._open_index()
        elif (folder / SINGLE).is_file():
            file = SafetensorsFile(folder / SINGLE)
            self._files = dict.fromkeys(file.tensors, file)
        else:
            raise CheckpointError(_nothing_to_read(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._files)

    def info(self, name: str) -> TensorInfo:
        """Type and shape of a tensor."""
        file, stored = self.find(name)
        return file.tensors[stored]

    def file(self, name: str) -> Path:
        """File that holds a tensor."""
        return self.find(name)[0].path

    def read(self, name: str) -> Tensor:
        """View of a tensor on its mapped file."""
        file, stored = self.find(name)
        return file.read(stored)

    def lend(self, name: str, window: Window) -> Tensor:
        """View of a part of a tensor on its mapped file."""
        file, stored = self.find(name)
        return file.lend(stored, window)

    def find(self, name: str) -> tuple[SafetensorsFile, str]:
        """The file that holds a tensor, and what it is called there."""
        return self._files[name], name

    def _open_index(self) -> None:
        path = self.folder / INDEX
        weight_map = read_json(path, CheckpointError).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{path}: weight_map must map tensor names to file names")
        opened: dict[str, SafetensorsFile] = {}
        for file_name in sorted(set(weight_map.values())):
            opened[file_name] = self._open_shard(file_name, path)
        for name, file_name in weight_map.items():
            check_name(name, path)
            if name not in opened[file_name].tensors:
                raise CheckpointError(f"{path}: says that {file_name} holds {name}, but it does not")
            self._files[name] = opened[file_name]
        for file_name, file in opened.items():
            for name in sorted(file.tensors):
                where = weight_map.get(name)
                if where is None:
                    raise CheckpointError(f"{self.folder / file_name}: holds {name}, which {INDEX} does not list")
                if where != file_name:
                    raise CheckpointError(
                        f"{self.folder / file_name}: holds {name}, and so does {where}; of two copies neither can be "
                        "trusted: download both files again"
                    )

    def _open_shard(self, file_name: str, index: Path) -> SafetensorsFile:
        plain = Path(file_name).name == file_name and "\\" not in file_name and "\0" not in file_name
        if not plain or not file_name.endswith(".safetensors"):
            named = shown(file_name)
            raise CheckpointError(f"{index}: names {named}, which is no safetensors file of this folder; refused")
        path = self.folder / file_name
        if not path.is_file():
            if os.path.lexists(path):
                raise CheckpointError(f"{path}: {_kind(path)}, and {INDEX} names it; download the file again")
            raise CheckpointError(f"{path}: missing, but {INDEX} names it; the download is incomplete")
        return SafetensorsFile(path)


def read_json(path: Path, error: type[CheckpointError | ConfigError]) -> Mapping[str, Any]:
    """Content of a JSON file that holds an object, no name twice in any. Raises ``error`` naming the file."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise error(f"{path}: {path.stat().st_size} bytes; more than {MAX_JSON} is refused")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: is not JSON: {problem}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: expected a JSON object")
    return content


def _kind(path: Path) -> str:
    """What something that is there, and is no file, is instead."""
    if path.is_dir():
        return "is a folder, not a file"
    if path.is_symlink() and not path.exists():
        return "is a link that leads to nothing"
    return "is a pipe or a device, not a file"


def _nothing_to_read(folder: Path) -> str:
    for path in (folder / INDEX, folder / SINGLE):
        if os.path.lexists(path):
            return f"{path}: {_kind(path)}; download the file again"
    names = sorted(p.name for p in folder.iterdir())
    pickled = [n for n in names if n.endswith(PICKLED)]
    if pickled:
        return (
            f"{folder}: holds {pickled[0]} but no safetensors; pickled weights can run code and are never loaded: "
            "convert them to safetensors"
        )
    stray = [n for n in names if n.endswith(".safetensors")]
    if stray:
        return f"{folder}: holds {stray[0]} but no {INDEX}; download the index too"
    return f"{folder}: holds neither {SINGLE} nor {INDEX}; give a folder with safetensors weights"
