"""How many pages the paged cache has, how many running states beside them, and their allocation.

A checkpoint of a state is there so that a later turn can go on from a cached prefix. It stands as often as it costs
what the tokens between two of them do, so states take about half of such a model's cache.
"""

from dataclasses import dataclass
from typing import Final

from ts_modeling import KvSpec, LayerCache, LoadedModel

from ts_runtime.devices import GIB, Device
from ts_runtime.errors import CacheMemoryError, SettingsError

MOST_STEPS: Final = 3
"""That a scheduler has under way; each may write a checkpoint beside the states that requests hold: one that they work
on and one that they started from (see ``least_pages`` in ts-scheduler)."""


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """Pages of the cache and the longest sequence that it serves."""

    num_pages: int
    page_size: int
    max_model_len: int
    num_states: int = 0
    """Running states, 0 for a model without."""
    checkpoint_blocks: int = 0
    """A checkpoint of them every so many pages."""

    @property
    def tokens(self) -> int:
        """Tokens that all pages hold."""
        return self.num_pages * self.page_size


def longest_sequence(requested: int, checkpoint: int) -> int:
    """Longest sequence to serve: as requested, or the checkpoint's.

    Raises:
        SettingsError: the checkpoint has not so many positions.
    """
    if requested > checkpoint:
        raise SettingsError(
            f"max_model_len = {requested}: the checkpoint has {checkpoint} positions; give at most those"
        )
    return requested or checkpoint


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Bytes of a model's cache."""

    page: int
    """A page of all layers' keys and values."""
    state: int = 0
    """A running state of all layers together, 0 for a model without."""
    working_states: int = 0
    """States that requests can hold at once, whatever is cached."""

    @property
    def checkpoint_blocks(self) -> int:
        """Pages that cost what a state does."""
        return -(-self.state // self.page)

    @property
    def fixed(self) -> int:
        """What does not grow with the pages."""
        return self.working_states * self.state

    def states(self, pages: int) -> int:
        """Running states beside so many pages."""
        return self.working_states + -(-pages // self.checkpoint_blocks) if self.state else 0

    def of(self, pages: int) -> int:
        """Bytes of so many pages and their states."""
        return pages * self.page + self.states(pages) * self.state

    def pages(self, size: int) -> int:
        """Pages that fit into ``size`` bytes with their states."""
        if not self.state:
            return size // self.page
        blocks = self.checkpoint_blocks
        whole = max(0, size - self.fixed) // (blocks * self.page + self.state)
        rest = size - self.fixed - whole * (blocks * self.page + self.state) - self.state
        return whole * blocks + max(0, rest // self.page)


def size_pool(
    *, requested_tokens: int, max_model_len: int, page_size: int, costs: Costs, free: int, budget: int
) -> PoolSize:
    """Pages for ``requested_tokens``, or (0) for ``budget`` bytes and one sequence of ``max_model_len`` at least.

    A requested cache may be smaller than ``max_model_len``: sequences then end where it does. ``free`` is in bytes.

    Raises:
        CacheMemoryError: it exceeds ``free``.
    """
    fits = costs.pages(free)
    needed = -(-(requested_tokens or max_model_len) // page_size)
    if costs.state and not fits:
        raise CacheMemoryError(_too_many_requests(costs, needed, free))
    if needed > fits:
        what, last = ("kv_cache_tokens", ", or 0 chooses") if requested_tokens else ("max_model_len", "")
        raise CacheMemoryError(
            f"{what} = {requested_tokens or max_model_len} needs {costs.of(needed) / GIB:.2f} GiB of cache and "
            f"{free / GIB:.2f} GiB are free; {fits * page_size} tokens fit{last}"
        )
    pages = needed if requested_tokens else max(needed, costs.pages(budget))
    return PoolSize(
        num_pages=pages,
        page_size=page_size,
        max_model_len=min(max_model_len, pages * page_size),
        num_states=costs.states(pages),
        checkpoint_blocks=costs.checkpoint_blocks,
    )


def _too_many_requests(costs: Costs, needed: int, free: int) -> str:
    spare = (free - needed * costs.page) // costs.state - -(-needed // costs.checkpoint_blocks) - MOST_STEPS
    advice = f"{spare // 2} requests fit" if spare >= 2 else "not even one request fits"
    return (
        f"max_num_seqs: {costs.working_states} running states, two a request, need {costs.fixed / GIB:.2f} GiB and "
        f"{free / GIB:.2f} GiB are free; {advice}"
    )


def costs_of(spec: KvSpec, *, page_size: int, max_num_seqs: int) -> Costs:
    """What a model's cache costs for so many requests at once. Windows count as full pages.

    Raises:
        SettingsError: no layer has pages.
    """
    if not spec.bytes_per_token:
        raise SettingsError(
            "the checkpoint has no layer with full attention; a model of running states alone is not served"
        )
    return Costs(
        page=page_size * spec.bytes_per_token,
        state=spec.bytes_per_state,
        working_states=2 * max_num_seqs + MOST_STEPS if spec.bytes_per_state else 0,
    )


def allocate(
    model: LoadedModel,
    device: Device,
    *,
    requested_tokens: int,
    max_model_len: int,
    page_size: int,
    max_num_seqs: int,
) -> tuple[PoolSize, list[LayerCache]]:
    """Size the pool for the device's free memory and allocate it. Windows are kept as full pages: that is correct, and
    only takes more memory.

    Raises:
        CacheMemoryError, SettingsError: it does not fit, or there are no pages.
    """
    free = device.free_memory()
    size = size_pool(
        requested_tokens=requested_tokens,
        max_model_len=max_model_len,
        page_size=page_size,
        costs=costs_of(model.kv_spec, page_size=page_size, max_num_seqs=max_num_seqs),
        free=free,
        budget=device.cache_budget(free),
    )
    try:
        return size, model.new_cache(size.num_pages, page_size, num_states=size.num_states)
    except (RuntimeError, MemoryError):  # torch's allocators raise RuntimeError
        raise CacheMemoryError(
            f"allocating {size.tokens} tokens of cache failed with {free / GIB:.2f} GiB free; "
            f"try kv_cache_tokens = {max(page_size, size.tokens // 2)}"
        ) from None
