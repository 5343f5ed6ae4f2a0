"""Random weights, for measuring without a checkpoint."""

from typing import Final

import torch
from torch import Tensor, nn

from ..layers.leaf import Buffer, Leaf

MOST_FP8: Final = 0x78
"""The first code of e4m3 above 256, so that random ones are all finite."""


def fill_with_dummies(model: nn.Module, *, device: torch.device, seed: int = 0) -> None:
    """Give every leaf random weights of sensible scale, made on ``device`` in the formats that the leaf has."""
    generator = torch.Generator(device=device).manual_seed(seed)
    for leaf in model.modules():
        if isinstance(leaf, Leaf):
            tensors = {name: _dummy(buffer, generator, device) for name, buffer in leaf.buffers_wanted().items()}
            if tensors:
                leaf.prepare(tensors)


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
