"""What cases share: sizes, seeded tensors, and the form of a case."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Run = Callable[[str | None], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Model widths, and the batch: ``rows`` tokens of decode, ``prompt`` of prefill, ``context`` keys a row."""

    hidden: int
    heads: int
    q_latent: int
    latent: int
    nope: int
    rope: int
    v: int
    inter: int
    experts: int
    expert_inter: int
    top_k: int
    vocab: int
    rows: int
    prompt: int
    context: int
    page_size: int = 16

    @property
    def head(self) -> int:
        """Width of a query head."""
        return self.nope + self.rope


MINIATURE = Sizes(
    hidden=256,
    heads=4,
    q_latent=128,
    latent=64,
    nope=32,
    rope=16,
    v=32,
    inter=768,
    experts=16,
    expert_inter=128,
    top_k=4,
    vocab=6144,
    rows=1,
    prompt=128,
    context=2048,
)
LARGE = Sizes(
    hidden=7168,
    heads=16,
    q_latent=1536,
    latent=512,
    nope=128,
    rope=64,
    v=128,
    inter=4608,
    experts=12,
    expert_inter=512,
    top_k=8,
    vocab=32768,
    rows=1,
    prompt=32,
    context=2048,
)


@dataclass(frozen=True)
class Case:
    """``run(impl)`` gives the operation's results; ``torch`` is the baseline, None where torch has none.

    ``bytes`` and ``flops`` are what a call must at least read and write, and compute, for the bench; None: not said.
    ``roundings`` is how many times an implementation may round to the activations' dtype on the way to the result: the
    tolerance is that many times the format's. ``variant`` tells an operation's cases apart.
    """

    operation: str
    run: Run
    torch: Callable[[], object] | None
    bytes: int | None = None
    flops: int | None = None
    roundings: int = 1
    variant: str = ""

    @property
    def label(self) -> str:
        """The operation and the variant."""
        return label(self.operation, self.variant)


def label(operation: str, variant: str) -> str:
    """What a table's row is called."""
    return f"{operation} {variant}".rstrip()


def nbytes(*tensors: Tensor) -> int:
    """Bytes of these tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Maker:
    """Random tensors of one dtype from one generator; the same values on every device."""

    def __init__(self, dtype: torch.dtype, seed: int, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        values: Tensor = torch.randn(shape, generator=self.generator) * scale
        return values.to(self.device, self.dtype)

    def weight(self, *shape: int) -> Tensor:
        """bf16, scaled to keep magnitudes."""
        values: Tensor = torch.randn(shape, generator=self.generator) * shape[-1] ** -0.5
        return values.to(self.device, torch.bfloat16)

    def shuffled(self, count: int) -> Tensor:
        """A permutation, int64."""
        return torch.randperm(count, generator=self.generator).to(self.device)
