"""Cases of ts_kernels.sampling."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..ops import sampling
from .common import Case, Maker, Sizes, nbytes

_DRAFTS = 3


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    logits = make(s.rows, s.vocab, scale=3.0).float()
    heat, top_k, top_p, seeds, positions = _parameters(s, make)
    min_p = torch.full((s.rows,), 0.02, device=make.device)

    def plain() -> Tensor:
        kept, index = (logits / heat[:, None]).topk(50)
        p = kept.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= 0.95, 0)
        return index.gather(1, torch.multinomial(p, 1))

    draw = (heat, top_k, top_p, seeds, positions)
    yield Case(
        "sampling.sample", lambda impl: (sampling.sample(logits, *draw, impl=impl),), plain, bytes=nbytes(logits)
    )
    if make.dtype == torch.float32:  # once is enough: the activations' dtype is not that of logits
        yield Case(
            "sampling.sample",
            lambda impl: (sampling.sample(logits, *draw, min_p=min_p, impl=impl),),
            None,
            variant="min_p",
        )
    yield Case(
        "sampling.argmax",
        lambda impl: (sampling.argmax(logits, impl=impl),),
        lambda: logits.argmax(-1),
        bytes=nbytes(logits),
    )
    tokens = logits.topk(7).indices[:, 6].int()
    yield Case(
        "sampling.logprobs",
        lambda impl: sampling.logprobs(logits, tokens, 20, impl=impl),
        lambda: logits.log_softmax(-1).topk(20),
        bytes=nbytes(logits),
    )
    yield from _edits(s, make, logits)
    yield from _speculation(s, make)


def _parameters(s: Sizes, make: Maker) -> tuple[Tensor, ...]:
    heat, top_p = torch.full((s.rows,), 0.8, device=make.device), torch.full((s.rows,), 0.95, device=make.device)
    top_k = torch.full((s.rows,), 50, dtype=torch.int32, device=make.device)
    seeds, positions = torch.arange(s.rows, device=make.device), torch.arange(s.rows, device=make.device) + 7
    return heat, top_k, top_p, seeds, positions


def _edits(s: Sizes, make: Maker, logits: Tensor) -> Iterator[Case]:
    slots = make.shuffled(s.rows + 2)[: s.rows]
    prompt, output = (make(s.rows, n).float().abs().mul(s.vocab / 8).int() % s.vocab for n in (40, 30))
    counts = torch.zeros(s.rows + 2, s.vocab, dtype=torch.int16, device=make.device)
    sampling.count_tokens(counts, slots, prompt, prompt=True, impl="reference")

    def count(impl: str | None) -> tuple[Tensor, ...]:
        mine = counts.clone()
        sampling.count_tokens(mine, slots, output, prompt=False, impl=impl)
        return (mine,)

    repetition, presence, frequency = (make(s.rows).float().abs() + 1 for _ in range(3))
    rows = torch.arange(s.rows, dtype=torch.int32, device=make.device).repeat(5)
    tokens = make.shuffled(s.vocab)[: 5 * s.rows].int()
    values = make(5 * s.rows).float()
    mask = make.shuffled(2**20)[: s.rows * -(-s.vocab // 32)].int().mul(2001).view(s.rows, -1)

    def edit(change: Callable[[Tensor], None]) -> tuple[Tensor, ...]:
        mine = logits.clone()
        change(mine)
        return (mine.nan_to_num(neginf=-9.0),)

    def penalize(impl: str | None) -> tuple[Tensor, ...]:
        mine = count("reference")[0]
        return edit(lambda x: sampling.apply_penalties(x, mine, slots, repetition, presence, frequency, impl=impl))

    def bias(impl: str | None) -> tuple[Tensor, ...]:
        return edit(lambda x: sampling.apply_bias(x, rows, tokens, values, impl=impl))

    yield Case("sampling.count_tokens", count, None)
    yield Case("sampling.apply_penalties", penalize, None)
    yield Case("sampling.apply_bias", bias, None)
    yield Case("sampling.apply_mask", lambda impl: edit(lambda x: sampling.apply_mask(x, mask, impl=impl)), None)


def _speculation(s: Sizes, make: Maker) -> Iterator[Case]:
    heat, _, top_p, seeds, positions = _parameters(s, make)
    off = torch.zeros(s.rows, dtype=torch.int32, device=make.device)
    target = make(s.rows, _DRAFTS + 1, s.vocab, scale=3.0).float()
    probs = (target[:, :-1] + make(s.rows, _DRAFTS, s.vocab, scale=0.3).float()).softmax(-1)
    drafts, counts = probs.argmax(-1).int(), off + _DRAFTS
    given = (drafts, counts, probs, heat, off, top_p, seeds, positions)
    yield Case("sampling.verify", lambda impl: sampling.verify(target, *given, impl=impl), None)
