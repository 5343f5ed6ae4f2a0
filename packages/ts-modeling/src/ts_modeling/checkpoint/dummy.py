"""Random weights, for measuring without a checkpoint."""

import os
from typing import Final

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.leaf import Buffer, Leaf

MOST_FP8: Final = 0x78
"""The first code of e4m3 above 256, so that random ones are all finite."""


def fill_with_dummies(model: nn.Module, *, device: torch.device, seed: int = 0) -> None:
    """Give every leaf random weights of sensible scale, made on ``device`` in the formats that the leaf has.

    Raises ``ConfigError`` with the bytes that they need where ``device`` does not have them, before any is taken if
    all of its memory would not do.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    leaves = [leaf for leaf in model.modules() if isinstance(leaf, Leaf)]
    needed, there = sum(b.nbytes for leaf in leaves for b in leaf.buffers_wanted().values()), memory_of(device)
    refusal = ConfigError(
        f"load_format = 'dummy': config.json asks for {needed} bytes of weights on this rank, more than {device} has; "
        "give a larger mesh or a smaller model"
    )
    if there is not None and needed > there:
        raise refusal
    for leaf in leaves:
        leaf.begin()
        try:
            tensors = {name: _dummy(buffer, generator, device) for name, buffer in leaf.buffers_wanted().items()}
        except (RuntimeError, MemoryError):  # what allocators raise
            raise refusal from None
        if tensors:
            leaf.prepare(tensors)


def memory_of(device: torch.device) -> int | None:
    """All of a device's memory in bytes; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _dummy(buffer: Buffer, generator: torch.Generator, device: torch.device) -> Tensor:
    if buffer.init == "codes":
        return _codes(buffer, generator, device)
    out = torch.empty(buffer.shape, dtype=buffer.dtypes[0], device=device)
    if buffer.init == "normal":
        return out.normal_(0.0, buffer.shape[-1] ** -0.5, generator=generator)
    if buffer.init == "fill":
        return out.fill_(buffer.value)
    return out.fill_(1.0 if buffer.init == "ones" else 0.0)


def _codes(buffer: Buffer, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random bits."""
    dtype = buffer.dtypes[0]
    if dtype == torch.float8_e4m3fn:
        high = torch.randint(2, buffer.shape, dtype=torch.uint8, generator=generator, device=device) << 7
        low = torch.randint(MOST_FP8, buffer.shape, dtype=torch.uint8, generator=generator, device=device)
        return (high | low).view(dtype)
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max, buffer.shape, dtype=dtype, generator=generator, device=device)
