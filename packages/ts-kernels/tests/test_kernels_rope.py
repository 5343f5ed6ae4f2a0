"""Rotations by halves, by three positions and in a plane; tables of plain and Llama 3 angles. Oracles: transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from ts_kernels import ContractError, checking, rope

Close = Callable[..., None]
FLOATS = st.sampled_from([torch.float32, torch.bfloat16])
GENERATOR = torch.Generator().manual_seed(7)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def spread(table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) [..., R] as transformers has them: each half of the columns the same."""
    cos, sin = table[positions].chunk(2, -1)
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def theirs_by_halves(x: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    cos, sin = spread(table, positions)
    turned, _ = modeling_llama.apply_rotary_pos_emb(
        x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos[None], sin[None]
    )
    return turned[0].transpose(0, 1)


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_halves_are_llamas(impl: str, native: None) -> None:
    x, table, positions = randn(9, 3, 24), rope.cos_sin(24, 50, 10000.0), torch.randint(50, (9,), generator=GENERATOR)
    mine = x.clone()
    assert rope.apply_halves(mine, table, positions, impl=impl) is mine
    torch.testing.assert_close(mine, theirs_by_halves(x, table, positions))


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_partial_rotation_leaves_the_rest(impl: str, native: None) -> None:
    x, table, positions = randn(5, 2, 32), rope.cos_sin(8, 50, 10000.0), torch.arange(5)
    mine = rope.apply_halves(x.clone(), table, positions, impl=impl)
    torch.testing.assert_close(mine[..., :8], theirs_by_halves(x[..., :8], table, positions))
    assert torch.equal(mine[..., 8:], x[..., 8:])


@pytest.mark.parametrize(
    ("interleaved", "sections"), [(False, (4, 6, 6)), (True, (6, 5, 5)), (True, (8, 4, 4)), (True, (12, 2, 2))]
)
@pytest.mark.parametrize("impl", ["reference", "native"])
def test_multimodal_is_qwens(impl: str, native: None, interleaved: bool, sections: tuple[int, int, int]) -> None:
    """Blocks as in Qwen2-VL, turns as in Qwen3-VL."""
    module, config = (
        (modeling_qwen3_vl.Qwen3VLTextRotaryEmbedding, Qwen3VLTextConfig)
        if interleaved
        else (modeling_qwen2_vl.Qwen2VLRotaryEmbedding, Qwen2VLTextConfig)
    )
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    made = config(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=32, rope_parameters=parameters)
    x, table = randn(11, 2, 40), rope.cos_sin(32, 90, 10000.0)
    positions = torch.randint(90, (3, 11), generator=GENERATOR)
    halves = [part[..., :16] for part in module(made)(torch.zeros(1), positions[:, None])]
    cos, sin = (torch.cat((part, part), -1) for part in halves)
    part = x[..., :32].transpose(0, 1)[None]
    want, _ = modeling_llama.apply_rotary_pos_emb(part, part, cos, sin)
    mine = rope.apply_multimodal(x.clone(), table, positions, sections, interleaved=interleaved, impl=impl)
    torch.testing.assert_close(mine[..., :32], want[0].transpose(0, 1), atol=2e-5, rtol=1e-4)
    assert torch.equal(mine[..., 32:], x[..., 32:])


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_plane_is_a_complex_product(impl: str, native: None) -> None:
    """MoonViT's definition: columns as complex numbers, times e^(i angle), x and y taking turns."""
    x, places = randn(7, 3, 24), torch.randint(40, (2, 7), generator=GENERATOR)
    frequencies = 10000.0 ** (-torch.arange(0, 24, 4)[:6].double() / 24)
    angles = torch.stack((places[0][:, None] * frequencies, places[1][:, None] * frequencies), -1).flatten(1)
    numbers = torch.view_as_complex(x.double().reshape(7, 3, 12, 2))
    want = torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)
    mine = rope.apply_2d(x.clone(), rope.cos_sin(12, 40, 10000.0), places, impl=impl)
    torch.testing.assert_close(mine, want.float(), atol=1e-5, rtol=1e-5)


def test_llama3_table() -> None:
    scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=scaling,
                         max_position_embeddings=131072)  # fmt: skip
    cos, sin = modeling_llama.LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(3000)[None])
    mine = rope.llama3_cos_sin(128, 3000, 500000.0, 8.0, 1.0, 4.0, 8192)
    torch.testing.assert_close(mine, torch.cat((cos[0, :, :64], sin[0, :, :64]), -1), atol=2e-5, rtol=1e-5)
    assert checking.difference(rope.cos_sin(128, 3000, 500000.0), mine) > 0.1


@given(
    tokens=st.sampled_from([0, 1, 2, 5, 40]),
    heads=st.integers(1, 3),
    pairs=st.sampled_from([1, 4, 8, 21]),
    rest=st.sampled_from([0, 1, 32]),
    interleaved=st.booleans(),
    dtype=FLOATS,
)
def test_native(
    isa: str, assert_close: Close, tokens: int, heads: int, pairs: int, rest: int, interleaved: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, heads, 2 * pairs + rest, generator=generator).to(dtype)
    table, positions = rope.cos_sin(2 * pairs, 77, 10000.0), torch.randint(77, (3, tokens), generator=generator)
    sections = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    square = torch.randn(tokens, heads, 4 * pairs, generator=generator).to(dtype)
    calls: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, bool]]] = [
        (rope.apply_halves, (x, table, positions[0]), {}),
        (rope.apply_multimodal, (x, table, positions, sections), {"interleaved": interleaved}),
        (rope.apply_2d, (square, table, positions[:2]), {}),
    ]
    for call, (first, *others), options in calls:
        want = call(first.clone(), *others, **options, impl="reference")
        assert_close(call(first.clone(), *others, **options, impl="native"), want)
        wide = torch.full((tokens, heads, 2 * first.shape[2]), torch.nan, dtype=dtype)
        wide[..., ::2] = first
        assert_close(call(wide[..., ::2], *others, **options, impl="native"), want)
        assert wide[..., 1::2].isnan().all()
        if tokens:
            wrong = call(first.clone(), others[0], (others[1] + 1) % 77, *others[2:], **options, impl="native")
            assert checking.difference(wrong, want) > 2 * checking.TOLERANCE[dtype], "positions do not matter"


X, TABLE, PLACES = torch.zeros(2, 3, 8), torch.zeros(9, 4), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rope.apply_halves(X[0], TABLE, PLACES), r"x must be \[T, H, D\]"),
        (lambda: rope.apply_halves(X, torch.zeros(9, 10), PLACES), "cos_sin must be at most 8 columns"),
        (lambda: rope.apply_halves(X, torch.zeros(9, 3), PLACES), "cos_sin must be of an even number of columns"),
        (lambda: rope.apply_halves(X, TABLE.double(), PLACES), "cos_sin must be float32"),
        (lambda: rope.apply_halves(X, TABLE, PLACES[:1]), r"positions must be \[2\]"),
        (lambda: rope.apply_halves(X, TABLE, PLACES.int()), "positions must be int64"),
        (lambda: rope.apply_multimodal(X, TABLE, PLACES, (1, 1, 0)), r"positions must be \[3, 2\]"),
        (
            lambda: rope.apply_multimodal(X, TABLE, PLACES.expand(3, 2), (1, 1, 1)),
            "sections must be 3 counts with sum 2, half of R",
        ),
        (lambda: rope.apply_2d(X, TABLE, PLACES), r"positions must be \[2, 2\]"),
        (lambda: rope.apply_2d(X, torch.zeros(9, 8), PLACES.expand(2, 2)), "cos_sin must be 4 columns"),
        (lambda: rope.cos_sin(7, 4, 1e4), "dim must be even and at least 2, got 7"),
        (lambda: rope.llama3_cos_sin(8, 4, 1e4, 0.5, 1.0, 4.0, 8), "factor must be finite and at least 1"),
        (lambda: rope.llama3_cos_sin(8, 4, 1e4, 8.0, 4.0, 4.0, 8), "high_freq_factor must be above low_freq_factor"),
        (lambda: rope.llama3_cos_sin(8, 4, 1e4, 8.0, 1.0, 4.0, 0), "original_max_positions must be at least 1"),
        (lambda: rope.cos_sin(2, 2**31, 1e4), "max_positions must be at most 2147483647, got 2147483648"),
        (lambda: rope.cos_sin(2**31, 1, 1e4), "dim must be at most 2147483647, got 2147483648"),
    ],
)
def test_wrong_argument(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        call()
