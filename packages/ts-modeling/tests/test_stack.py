"""Stacks of checkpoint matrices: what ranks hold of them, in every format, is their part of the whole."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from ts_kernels import quantize
from ts_modeling import ConfigError, MeshError
from ts_modeling.layers import Linear, Span, Stack
from ts_modeling.layers.leaf import Leaf, Slot
from ts_modeling.placement import Dim, Mesh
from ts_modeling.quantization import PLAIN, PackedInt, Scheme, dequantized

Stored = dict[str, Tensor]
Make = Callable[[Tensor], tuple[Stored, Tensor]]
"""Stores a matrix [N, K]: tensors by key, and what they mean in fp32."""


def plain(weight: Tensor) -> tuple[Stored, Tensor]:
    return {"weight": weight}, weight


def int4(weight: Tensor) -> tuple[Stored, Tensor]:
    made = quantize.quantize_int4(weight, 32)
    return {"packed": made.packed, "scale": made.scale}, made.dequantize()


FORMATS: dict[str, tuple[Scheme, Make]] = {"plain": (PLAIN, plain), "int4": (PackedInt(4, 32), int4)}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def fill(leaf: Leaf | Stack, tensors: Stored) -> Stored:
    """The buffers of a leaf or a stack, filled from checkpoint tensors by part, as the loader does."""
    wanted = leaf.buffers() if isinstance(leaf, Stack) else leaf.buffers_wanted()
    out: Stored = {}
    for part, tensor in tensors.items():
        slot: Slot = leaf.slot(part)
        for take, put in slot.moves:
            buffer = wanted[slot.buffer]
            held = out.setdefault(slot.buffer, torch.full(buffer.shape, 77, dtype=tensor.dtype))
            held[put] = tensor.view(slot.shape)[take]
    assert {name: tuple(t.shape) for name, t in out.items()} == {name: b.shape for name, b in wanted.items()}
    return out


def stored(make: Make, matrices: dict[str, Tensor]) -> tuple[Stored, dict[str, Tensor]]:
    made = {part: make(weight) for part, weight in matrices.items()}
    tensors = {f"{part}.{key}": t for part, (fields, _) in made.items() for key, t in fields.items()}
    return tensors, {part: meaning for part, (_, meaning) in made.items()}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cut", ["columns", "rows", None])
def test_every_rank_holds_its_part(name: str, cut: str | None) -> None:
    scheme, make = FORMATS[name]
    tensors, meant = stored(make, {"q": random(512, 256), "k": random(256, 256)})
    products, x = [], random(3, 256)
    for rank in range(2):
        mesh = Mesh(2, {"attn_tp": 2}, rank)
        axes = {cut: "attn_tp"} if cut else {}
        leaf = Linear(Dim("in", 256), Dim("out", 768), {"q": 512, "k": 256}, mesh, scheme=scheme, **axes)
        leaf.prepare(fill(leaf, tensors))
        products.append(leaf.forward(x[:, rank * 128 : rank * 128 + 128] if cut == "rows" else x))
    expected = [x @ meant[part].T for part in ("q", "k")]
    if cut == "columns":
        halves = [[part.chunk(2, 1)[rank] for part in expected] for rank in range(2)]
        for product, half in zip(products, halves, strict=True):
            torch.testing.assert_close(product, torch.cat(half, 1), rtol=1e-4, atol=1e-4)
        return
    total = sum(products) if cut == "rows" else products[0]
    torch.testing.assert_close(total, torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", ["columns", "rows"])
def test_a_bias_is_added_once(cut: str) -> None:
    tensors = {"o.weight": random(8, 6), "o.bias": random(8)}
    total = torch.zeros(2, 8)
    x = random(2, 6)
    for rank in range(2):
        mesh = Mesh(2, {"attn_tp": 2}, rank)
        leaf = Linear(Dim("in", 6), Dim("out", 8), {"o": 8}, mesh, bias=True, **{cut: "attn_tp"})  # type: ignore[arg-type]
        leaf.prepare(fill(leaf, tensors))
        half = slice(rank * 3, rank * 3 + 3)
        if cut == "rows":
            total += leaf.forward(x[:, half])
        else:
            total[:, rank * 4 : rank * 4 + 4] = leaf.forward(x)
    torch.testing.assert_close(total, x @ tensors["o.weight"].T + tensors["o.bias"])


def test_copies_give_neighbours_the_same_rows() -> None:
    """Two key heads of 3 rows over four ranks."""
    weight = random(6, 5)
    for rank in range(4):
        mesh = Mesh(4, {"attn_tp": 4}, rank)
        leaf = Linear(Dim("in", 5), Dim("out", 12), {"k": 12}, mesh, columns="attn_tp", copies={"k": 2})
        assert leaf.slot("k.weight").shape == (6, 5)
        assert torch.equal(fill(leaf, {"k.weight": weight})["weight"], weight[rank // 2 * 3 : rank // 2 * 3 + 3])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("fused", [False, True])
def test_experts_come_one_by_one_or_all_in_one_tensor(name: str, fused: bool) -> None:
    """Experts 2 and 3 of 6, the second half of each matrix's rows; fused tensors hold gate rows, then up rows."""
    scheme, make = FORMATS[name]
    every = {f"{e}.{part}": random(256, 128) + e for e in range(6) for part in ("gate", "up")}
    tensors, meant = stored(make, every)
    if fused:
        keys = [field.key for field in scheme.fields]
        rows = {key: [torch.cat([tensors[f"{e}.{p}.{key}"] for p in ("gate", "up")]) for e in range(6)] for key in keys}
        tensors = {f"gate+up.{key}": torch.stack(parts) for key, parts in rows.items()}
    half = Span(256, 128, 128)
    stack = Stack("", scheme, {"gate": half, "up": half}, Span.whole(128), experts=Span(6, 2, 2))
    held = dequantized(stack.source(fill(stack, tensors))).float()
    expected = [torch.cat([meant[f"{e}.{part}"][128:] for part in ("gate", "up")]) for e in (2, 3)]
    tolerance = 1e-6 if name == "plain" else 2**-8
    torch.testing.assert_close(held, torch.stack(expected), rtol=tolerance, atol=1e-3 * tolerance)


def test_a_cut_within_a_group_names_the_sizes_that_are_fine() -> None:
    mesh = Mesh(4, {"attn_tp": 4})
    with pytest.raises(MeshError, match=r"in = 192 over attn_tp=4 leaves 48 .*groups of 32.*do not: 1, 2, 3, 6"):
        Linear(Dim("in", 192), Dim("out", 8), {"o": 8}, mesh, rows="attn_tp", scheme=PackedInt(4, 32))
    with pytest.raises(ConfigError, match=r"in = 100 is no multiple of 32"):
        Linear(Dim("in", 100), Dim("out", 8), {"o": 8}, Mesh.single(), scheme=PackedInt(4, 32))
