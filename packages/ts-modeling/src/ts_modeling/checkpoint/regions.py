"""Which part of a checkpoint tensor fills which part of a region of a buffer."""

from typing import Final

from ..layers.leaf import Region

ALL: Final = slice(None)
Take = tuple[int | slice, ...]


def overlap(
    take: Take, put: Region, region: Region, tensor: tuple[int, ...], buffer: tuple[int, ...]
) -> tuple[Take, Region] | None:
    """``buffer[put] = tensor[take]`` within ``buffer[region]``: what to take, and where in the region it goes.

    ``tensor`` and ``buffer`` are their shapes. A size of 1 is taken for as many as there is room for. None where the
    two do not meet.
    """
    out_take: list[int | slice] = []
    out_put: list[int | slice] = []
    at = 0  # the tensor's dimension
    for d in range(len(buffer)):
        here, asked = _at(put, d), _at(region, d)
        if isinstance(here, int):
            start, end = _bounds(asked, buffer[d])
            if not start <= here < end:
                return None
            if not isinstance(asked, int):
                out_put.append(here - start)
            continue
        (first, last), (start, end) = _bounds(here, buffer[d]), _bounds(asked, buffer[d])
        low, high = max(first, start), min(last, end)
        if low >= high:
            return None
        begin, stop = _bounds(_at(take, at), tensor[at])
        spread = stop - begin == 1 < last - first
        where = slice(begin, stop) if spread else slice(begin + low - first, begin + high - first)
        out_take.append(where.start if isinstance(asked, int) else where)
        if not isinstance(asked, int):
            out_put.append(slice(low - start, high - start))
        at += 1
    return tuple(out_take), tuple(out_put)


def size(region: Region, buffer: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of ``buffer[region]``."""
    spans = [(_at(region, d), n) for d, n in enumerate(buffer)]
    return tuple(end - start for part, n in spans if not isinstance(part, int) for start, end in (_bounds(part, n),))


def bytes_of(take: Take, tensor: tuple[int, ...], nbytes: int, dimensions: int) -> tuple[int, int]:
    """First and last byte, but one, of ``tensor[take]`` in a file; only its first ``dimensions`` lie in their order."""
    start, length = 0, nbytes
    for part, n in list(zip(take, tensor, strict=False))[:dimensions]:
        first, last = _bounds(part, n)
        each = length // n
        start, length = start + first * each, (last - first) * each
        if last - first > 1:
            break
    return start, start + length


def _at(region: Region, d: int) -> int | slice:
    return region[d] if d < len(region) else ALL


def _bounds(part: int | slice, n: int) -> tuple[int, int]:
    if isinstance(part, int):
        return part, part + 1
    return part.start or 0, n if part.stop is None else part.stop
