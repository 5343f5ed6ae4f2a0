"""Tile sizes of a grouped product. Legend: P pairs, E experts, N rows of a matrix, K columns, M pairs of a block.

Chosen from sizes that the host knows, so that a captured graph fits every choice of experts. They come from counting
and from what the compiler gives (registers, shared memory), not from a tuner: no GPU has run them yet.
"""

from dataclasses import dataclass, replace

from ....platform import DeviceInfo

SPAN = 128
EIGHT = ("fp8", "int8")  # kinds whose codes are bytes
PROGRAMS = 528  # four for each multiprocessor of an H200


@dataclass(frozen=True)
class Launch:
    """block_m pairs by block_n rows; ``split`` parts of the columns."""

    block_m: int
    block_n: int
    split: int
    warps: int
    stages: int


def block_of(pairs: int, experts: int) -> int:
    """M: wide enough for an expert's usual share, as padding costs a whole product."""
    share = pairs / experts
    return 16 if share <= 12 else 32 if share <= 24 else 64 if share <= 256 else 128


def launch(
    kind: str, pairs: int, experts: int, n: int, k: int, *, gated: bool, device: DeviceInfo, size: int
) -> Launch:
    """Few pairs: narrow tiles, many programs, deep prefetch, as reading weights bounds it. Many: square tiles.

    ``size`` is bytes a number of the activations or of plain weights, the larger. As many stages as fit the device.
    """
    plan = _tiles(kind, pairs, experts, n, k, gated, device, size)
    columns, code = (SPAN // 2, size) if kind == "dense" else (SPAN, 1.0 if kind.startswith(EIGHT) else 0.5)
    loads = int(columns * (plan.block_m * size + plan.block_n * code))
    widened = 0 if kind == "dense" else plan.block_n * SPAN // 2 * size
    return replace(plan, stages=device.stages(plan.stages, loads, widened))


def _tiles(kind: str, pairs: int, experts: int, n: int, k: int, gated: bool, device: DeviceInfo, size: int) -> Launch:
    block_m = block_of(pairs, experts)
    if block_m >= 64:
        # FP8 blocks hold a second sum, for which four warps have too few registers; so have they for fp32 (sm_100: 164
        # bytes a thread spilled), and for four-bit codes where products take registers alone (sm_120: up to 52).
        narrow = device.vendor == "nvidia" and not device.products_from_shared and not kind.startswith(EIGHT)
        many = block_m == 128 or kind == "fp8-block" or size == 4 or (narrow and kind != "dense")
        return Launch(block_m, 128, 1, 8 if many else 4, 3 if device.products_from_shared else 2)
    block_n = 128 if n >= 4096 else 64
    programs = min(pairs, experts) * -(-n // block_n)
    split = 1
    while gated and split < 8 and programs * split < PROGRAMS and k // (2 * split) >= 4 * SPAN:
        split *= 2
    return Launch(block_m, block_n, split, 4, 4)
