"""A weight that is put together from runs of its rows. Legend: E experts, N outputs, K inputs."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from .formats import QuantizedWeight
from .fp8 import BLOCK

ROWS: Final[Mapping[str, int]] = {"scale_inv": BLOCK, "zero_point": 8}
"""Rows of the weight that one row of a tensor stands for, where it is not one."""
Source = Tensor | QuantizedWeight


def shared_rows(run: Source) -> int:
    """Rows of a weight that share an entry of some tensor."""
    return 1 if isinstance(run, Tensor) else max(ROWS.get(name, 1) for name in run.tensors())


def room_for(run: Source, rows: int, *lead: int) -> Source:
    """Memory for [*lead, rows, K] in the form of ``run`` [n, K]; what it holds is unspecified."""
    if isinstance(run, Tensor):
        return run.new_empty((*lead, rows, *run.shape[1:]))
    tensors = {
        name: t.new_empty((*lead, -(-rows // ROWS.get(name, 1)), *t.shape[1:])) for name, t in _by_row(run).items()
    }
    return type(run)(**tensors)


def put_run(whole: Source, run: Source, first: int, *lead: int) -> None:
    """Copy ``run`` [n, K] to the rows of ``whole`` from ``first`` on, at ``lead`` of its leading sizes."""
    if isinstance(run, Tensor):
        assert isinstance(whole, Tensor)
        whole[lead][first : first + run.shape[0]].copy_(run)
        return
    assert isinstance(whole, QuantizedWeight)
    held = whole.tensors()
    for name, tensor in _by_row(run).items():
        start = first // ROWS.get(name, 1)
        held[name][lead][start : start + tensor.shape[0]].copy_(tensor)


def _by_row(run: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors of ``run`` [n, K]; a factor of all its rows (NVFP4) is one of each, as other runs have others."""
    return {name: t if t.dim() else t.expand(run.shape[0]) for name, t in run.tensors().items()}


def dtype_of(run: Source) -> torch.dtype:
    """What ``prepare`` calls the type of such a weight: of a tensor its own."""
    return run.dtype if isinstance(run, Tensor) else torch.float32
