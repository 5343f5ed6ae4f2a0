"""Cases of ts_kernels.kv_cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import kv_cache
from .common import Case, Maker, Run, Sizes, nbytes
from .rope import table_of


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    """Latents, and keys and values, of a batch into shuffled slots."""
    pages = -(-s.rows // s.page_size) + 1
    positions, slots = make.shuffled(s.context)[: s.rows], make.shuffled(pages * s.page_size)[: s.rows]
    kv_a, gain, table = make(s.rows, s.latent + s.rope), make(s.latent), table_of(s, make)

    def write(impl: str | None) -> tuple[Tensor, ...]:
        cache = torch.zeros(pages, s.page_size, s.latent + s.rope, dtype=torch.bfloat16, device=make.device)
        kv_cache.write_latent(kv_a, gain, 1e-5, table, positions, slots, cache, impl=impl)
        return (cache,)

    moved = nbytes(kv_a, gain) + s.rows * ((s.latent + s.rope) * 2 + s.rope * 4)
    yield Case("kv_cache.write_latent", write, None, bytes=moved)
    source = make(2 * pages, s.page_size, s.latent + s.rope)
    taken, given = make.shuffled(2 * pages)[:pages], make.shuffled(pages)

    def copy(impl: str | None) -> tuple[Tensor, ...]:
        target = torch.zeros_like(source[:pages])
        kv_cache.copy_pages(source, target, taken, given, impl=impl)
        return (target,)

    yield Case(
        "kv_cache.copy_pages",
        copy,
        lambda: torch.zeros_like(source[:pages]).index_copy_(0, given, source[taken]),
        bytes=3 * nbytes(source) // 2,  # zeros written, then half of the source read and written
    )
    shared = max(2, s.heads // 4)
    k, v = make(s.rows, shared, s.head), make(s.rows, shared, s.v)
    for variant, stored in (("", torch.bfloat16), ("fp8", torch.float8_e4m3fn)):
        sizes: list[tuple[int, ...]] = [(pages, s.page_size, shared, width) for width in (s.head, s.v)]
        moved = nbytes(k, v) + stored.itemsize * s.rows * shared * (s.head + s.v)
        yield Case("kv_cache.write_kv", _write_kv(k, v, slots, sizes, stored), None, bytes=moved, variant=variant)


def _write_kv(k: Tensor, v: Tensor, slots: Tensor, sizes: list[tuple[int, ...]], stored: torch.dtype) -> Run:
    def run(impl: str | None) -> tuple[Tensor, ...]:
        caches = [torch.zeros(size, dtype=stored, device=k.device) for size in sizes]
        kv_cache.write_kv(k, v, slots, *caches, k_scale=0.5, v_scale=2.0, impl=impl)
        return tuple(caches)

    return run
