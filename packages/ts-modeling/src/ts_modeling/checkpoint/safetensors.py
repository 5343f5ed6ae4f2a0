"""Reader of safetensors files: header checked before a byte of data is touched, data mapped and never copied whole.

Format: 8 bytes of header length (little endian), a JSON object name -> {dtype, shape, data_offsets}, then the data,
each byte of which belongs to one tensor.
"""

import json
import mmap
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, shown

MAX_HEADER: Final = 100_000_000
"""Bytes; the format's own limit."""
MAX_DIMENSIONS: Final = 8
MAPPED: Final = 1 << 16
"""Bytes that the system maps at a time where one of them is read."""
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


class TensorInfo(NamedTuple):
    """Where one tensor lies: ``start`` counts from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


class Window(NamedTuple):
    """A part of a tensor in a file: shape, and steps and beginning in elements of it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class SafetensorsFile:
    """One open file; ``tensors`` lists it. Raises ``CheckpointError`` for a truncated, corrupt or overlapping one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                header, base = _read_header(file, size, path)
                self.tensors = _check_header(header, base, size, path)
                # A private mapping: torch wants writable memory, and nothing here ever writes to it.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self._elements: dict[torch.dtype, Tensor] = {}
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None

    def read(self, name: str) -> Tensor:
        """View of the tensor on the mapped file; copy what you keep."""
        info = self.tensors[name]
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        if info.start % info.dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=info.nbytes, offset=info.start)
            return raw.clone().view(info.dtype).view(info.shape)
        count = info.nbytes // info.dtype.itemsize
        return torch.frombuffer(self._map, dtype=info.dtype, count=count, offset=info.start).view(info.shape)

    def lend(self, name: str, window: Window) -> Tensor:
        """``window`` of what ``read`` gives, in one step: there may be a hundred thousand of small tensors."""
        dtype, _, start, nbytes = self.tensors[name]
        if nbytes == 0 or start % dtype.itemsize:
            return self.read(name).as_strided(*window)
        if dtype not in self._elements:
            self._elements[dtype] = torch.frombuffer(self._map, dtype=dtype, count=len(self._map) // dtype.itemsize)
        return self._elements[dtype].as_strided(window.shape, window.stride, start // dtype.itemsize + window.offset)

    def ask_for(self, start: int, end: int) -> None:
        """Have the system read these bytes ahead."""
        self._advise("MADV_WILLNEED", start - start % mmap.PAGESIZE, end)

    def forget(self, start: int, end: int) -> None:
        """Give the mapped pages of these bytes back, which count as this process's memory, and those around that the
        system maps along with them. Reading maps them again."""
        self._advise("MADV_DONTNEED", start - start % MAPPED, end + -end % MAPPED)

    def _advise(self, advice: str, start: int, end: int) -> None:
        if hasattr(mmap, advice) and end > start:
            self._map.madvise(getattr(mmap, advice), start, min(end, len(self._map)) - start)


def _read_header(file: Any, size: int, path: Path) -> tuple[dict[str, Any], int]:
    file.seek(0)
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointError(f"{path}: {size} bytes is too short for a safetensors file; copy it again")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER or length > size - 8:
        raise CheckpointError(
            f"{path}: its header claims {length} bytes in a file of {size}; it is truncated or no safetensors file"
        )
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=once)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not JSON ({error}); the file is corrupt") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no JSON object; the file is corrupt")
    header.pop("__metadata__", None)
    return header, 8 + length


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names comes twice: of two tensors of one name a reader would see either."""
    out: dict[str, Any] = {}
    for name, value in pairs:
        if name in out:
            raise ValueError(f"the name {shown(name)} comes twice")
        out[name] = value
    return out


def _check_header(header: Mapping[str, Any], base: int, size: int, path: Path) -> dict[str, TensorInfo]:
    out = {name: _check_entry(name, entry, base, size, path) for name, entry in header.items()}
    end, before = base, ""
    for name, info in sorted(out.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start < end:
            raise CheckpointError(f"{path}: {name} overlaps {before}; the file is corrupt")
        if info.start > end:
            raise CheckpointError(f"{path}: {info.start - end} bytes before {name} belong to no tensor; it is corrupt")
        end, before = info.start + info.nbytes, name
    if end != size:
        raise CheckpointError(f"{path}: {size - end} bytes at its end belong to no tensor; the file is corrupt")
    return out


def check_name(name: str, path: Path) -> None:
    """Refuse a tensor's name that a message could not hold: of several lines, or of characters that are none."""
    if not name.isprintable():
        raise CheckpointError(f"{path}: {shown(name)} is no name of a tensor; the file is corrupt")


def _check_entry(name: str, entry: Any, base: int, size: int, path: Path) -> TensorInfo:
    check_name(name, path)
    try:
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: {name} has a malformed header entry or an unknown dtype: {entry!r:.120}"
        ) from None
    for n in (*shape, begin, end):
        if type(n) is not int or not 0 <= n < 1 << 62:
            raise CheckpointError(f"{path}: {name} has a shape or offset that is no size: {entry!r:.120}")
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: {name} has {len(shape)} dimensions; more than {MAX_DIMENSIONS} are refused")
    nbytes = prod(shape) * dtype.itemsize
    if end - begin != nbytes:
        raise CheckpointError(
            f"{path}: {name} of shape {list(shape)} needs {nbytes} bytes, its offsets span {end - begin}"
        )
    if base + end > size:
        raise CheckpointError(
            f"{path}: {name} ends at byte {base + end} of a file of {size}; the file is truncated: copy it again"
        )
    return TensorInfo(dtype, shape, base + begin, nbytes)
