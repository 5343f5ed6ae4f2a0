"""One representative call of every operation at given sizes, for ``ts-kernels check`` and ``bench``.

A case runs the operation with any implementation, and has a plain torch baseline with weights unpacked and upcast
beforehand, which is what a careful user of torch would write. Caches are poisoned where no token was written and page
tables are shuffled. Each family has a module here whose ``cases`` yields its own.
"""

from collections.abc import Iterator

import torch

from . import activation, attention, gemm, kv_cache, linear_attention, mla, moe, norm, quantize, rope, sampling
from .common import LARGE, MINIATURE, Case, Maker, Sizes, label

__all__ = ["LARGE", "MINIATURE", "Case", "Sizes", "all_cases", "label"]

_FAMILIES = (
    norm, rope, activation, kv_cache, quantize, gemm, moe, mla, attention, linear_attention, sampling,
)  # fmt: skip


def all_cases(
    sizes: Sizes, dtype: torch.dtype = torch.float32, *, seed: int = 0, device: torch.device | None = None
) -> Iterator[Case]:
    """Every operation's case, made one at a time so that large weights do not pile up."""
    make = Maker(dtype, seed, device or torch.device("cpu"))
    for family in _FAMILIES:
        yield from family.cases(sizes, make)
