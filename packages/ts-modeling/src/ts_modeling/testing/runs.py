"""Ways of feeding one sequence to a model that must all give the same logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kv import LayerCache
from ..load import LoadedModel
from .batches import Sequences


def new_cache(model: LoadedModel, rows: Sequences, *, poison: bool = True) -> list[LayerCache]:
    """Cache for ``rows``, all of it NaN so that what nobody wrote shows."""
    cache = model.new_cache(rows.num_pages, rows.page_size, num_states=rows.num_states)
    for layer in cache if poison else ():
        for tensor in layer if isinstance(layer, tuple) else (layer,):
            tensor.fill_(float("nan"))
    return cache


def run_whole(model: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """The prompt at once: [T, V]."""
    rows = Sequences(1, len(tokens))
    return model.forward(rows.batch(prefills=[(0, tokens)]), new_cache(model, rows))


def run_chunked(model: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """In uneven chunks, one of them a single token."""
    rows = Sequences(1, len(tokens), seed=3)
    cache = new_cache(model, rows)
    chunks = [tokens[:13], tokens[13:14], tokens[14:31], tokens[31:]]
    return torch.cat([model.forward(rows.batch(prefills=[(0, chunk)]), cache) for chunk in chunks])


def run_decodes(model: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """The first token as a prompt, each other one as a decode."""
    rows = Sequences(1, len(tokens), page_size=8, seed=5)
    cache = new_cache(model, rows)
    out = [model.forward(rows.batch(prefills=[(0, tokens[:1])]), cache)]
    return torch.cat(out + [model.forward(rows.batch(decodes=[(0, [token])]), cache) for token in tokens[1:]])


def run_mixed(model: LoadedModel, first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int, Tensor]]:
    """Two decodes beside two prefill chunks, six times: (sequence, position, logits), even sequences are ``first``.

    Both need 43 tokens or more.
    """
    rows = Sequences(4, 48, seed=11)
    cache = new_cache(model, rows)
    out: list[tuple[int, int, Tensor]] = []
    model.forward(rows.batch(prefills=[(0, first[:20]), (1, second[:9]), (3, second[:5])]), cache)
    for step in range(6):
        third, fourth = first[step * 7 : step * 7 + 7], second[5 + step * 3 : 8 + step * 3]
        decodes = [(1, second[9 + step : 10 + step]), (0, first[20 + step : 21 + step])]
        logits = model.forward(rows.batch(decodes=decodes, prefills=[(2, third), (3, fourth)], every=False), cache)
        places = ((1, 9 + step), (0, 20 + step), (2, step * 7 + 6), (3, 7 + step * 3))
        out += [(row, position, one) for (row, position), one in zip(places, logits, strict=True)]
    return out
