"""Rotary positions in Triton against the reference: in the interpreter, or on a GPU where there is one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ts_kernels import checking, rope

Close = Callable[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "heads", "pairs", "rest"), [(0, 2, 4, 0), (1, 1, 1, 3), (5, 3, 21, 0), (7, 5, 8, 32)]
)
def test_rotations(
    device: torch.device, assert_close: Close, dtype: torch.dtype, tokens: int, heads: int, pairs: int, rest: int
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, heads, 2 * pairs + rest, generator=generator).to(device, dtype)
    square = torch.randn(tokens, heads, 4 * pairs, generator=generator).to(device, dtype)
    table = rope.cos_sin(2 * pairs, 77, 10000.0).to(device)
    positions = torch.randint(77, (3, tokens), generator=generator).to(device)
    sections = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    calls: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, bool]]] = [
        (rope.apply_interleaved, (x, table, positions[0]), {}),
        (rope.apply_halves, (x, table, positions[0]), {}),
        (rope.apply_multimodal, (x, table, positions, sections), {}),
        (rope.apply_multimodal, (x, table, positions, sections), {"interleaved": True}),
        (rope.apply_2d, (square, table, positions[:2]), {}),
    ]
    for call, (first, *others), options in calls:
        want = call(first.clone(), *others, **options, impl="reference")
        mine = first.clone()
        assert call(mine, *others, **options, impl="triton") is mine
        assert_close(mine, want)
        wide = torch.full((tokens, heads, 2 * first.shape[2]), torch.nan, dtype=dtype, device=device)
        wide[..., ::2] = first
        assert_close(call(wide[..., ::2], *others, **options, impl="triton"), want)
        assert wide[..., 1::2].isnan().all()
        if tokens:
            wrong = call(first.clone(), others[0], (others[1] + 1) % 77, *others[2:], **options, impl="triton")
            assert checking.difference(wrong, want) > 2 * checking.TOLERANCE[dtype], "positions do not matter"
