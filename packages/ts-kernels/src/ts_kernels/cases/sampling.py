"""Cases of ts_kernels.sampling."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import sampling
from .common import Case, Maker, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    logits = make(s.rows, s.vocab, scale=3.0).float()
    heat, top_p = torch.full((s.rows,), 0.8, device=make.device), torch.full((s.rows,), 0.95, device=make.device)
    top_k = torch.full((s.rows,), 50, dtype=torch.int32, device=make.device)
    seeds, positions = torch.arange(s.rows, device=make.device), torch.arange(s.rows, device=make.device) + 7

    def plain() -> Tensor:
        kept, index = (logits / heat[:, None]).topk(50)
        p = kept.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= 0.95, 0)
        return index.gather(1, torch.multinomial(p, 1))

    yield Case(
        "sampling.sample",
        lambda impl: (sampling.sample(logits, heat, top_k, top_p, seeds, positions, impl=impl),),
        plain,
        bytes=nbytes(logits),
    )
