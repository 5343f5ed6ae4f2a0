"""How many pages the paged cache has, and their allocation."""

from dataclasses import dataclass

from ts_modeling import LayerCache, LoadedModel

from ts_runtime.devices import GIB, Device
from ts_runtime.errors import CacheMemoryError, SettingsError


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """Pages of the cache and the longest sequence that it serves."""

    num_pages: int
    page_size: int
    max_model_len: int

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


def size_pool(
    *,
    requested_tokens: int,
    max_model_len: int,
    page_size: int,
    bytes_per_token: int,
    free: int,
    budget: int,
) -> PoolSize:
    """Pages for ``requested_tokens``, or (0) for ``budget`` bytes and one sequence of ``max_model_len`` at least.

    A requested cache may be smaller than ``max_model_len``: sequences then end where it does. ``free`` is in bytes.

    Raises:
        CacheMemoryError: it exceeds ``free``.
    """
    page_bytes = page_size * bytes_per_token
    fits = free // page_bytes
    if requested_tokens:
        pages = -(-requested_tokens // page_size)
        if pages > fits:
            raise CacheMemoryError(
                f"kv_cache_tokens = {requested_tokens} needs {pages * page_bytes / GIB:.2f} GiB and "
                f"{free / GIB:.2f} GiB are free; {fits * page_size} tokens fit, or 0 chooses"
            )
        return PoolSize(num_pages=pages, page_size=page_size, max_model_len=min(max_model_len, pages * page_size))
    needed = -(-max_model_len // page_size)
    if needed > fits:
        raise CacheMemoryError(
            f"max_model_len = {max_model_len} needs {needed * page_bytes / GIB:.2f} GiB of cache for one sequence and "
            f"{free / GIB:.2f} GiB are free; {fits * page_size} tokens fit"
        )
    return PoolSize(num_pages=max(needed, budget // page_bytes), page_size=page_size, max_model_len=max_model_len)


def allocate(
    model: LoadedModel, device: Device, *, requested_tokens: int, max_model_len: int, page_size: int
) -> tuple[PoolSize, list[LayerCache]]:
    """Size the pool for the device's free memory and allocate it. Windows are kept as full pages: that is correct, and
    only takes more memory.

    Raises:
        CacheMemoryError: it does not fit.
    """
    free = device.free_memory()
    size = size_pool(
        requested_tokens=requested_tokens,
        max_model_len=max_model_len,
        page_size=page_size,
        bytes_per_token=model.kv_spec.bytes_per_token,
        free=free,
        budget=device.cache_budget(free),
    )
    try:
        return size, model.new_cache(size.num_pages, page_size)
    except (RuntimeError, MemoryError):  # torch's allocators raise RuntimeError
        raise CacheMemoryError(
            f"allocating {size.tokens} tokens of cache failed with {free / GIB:.2f} GiB free; "
            f"try kv_cache_tokens = {max(page_size, size.tokens // 2)}"
        ) from None
