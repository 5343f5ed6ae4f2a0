"""Stacks of checkpoint matrices: what ranks hold of them, in every format, is their part of the whole."""

import pytest
import torch
from torch import Tensor
from ts_modeling import CheckpointError, ConfigError, MeshError
from ts_modeling.checkpoint import linear_entries
from ts_modeling.layers import MLP, Linear, Span, Stack, inner_span
from ts_modeling.layers.leaf import Leaf, Slot
from ts_modeling.placement import Dim, Mesh
from ts_modeling.quantization import Fp8Block, PackedInt, Scheme, dequantized, parse_quantization, scheme_of
from ts_modeling.testing import FORMATS, meaning

Stored = dict[str, Tensor]
ALL = ["plain", *FORMATS]
PARTS = ("gate", "up")
AS_BF16 = ("int8-zeros-32",)
"""Read as bf16, since no kernel has them."""


def scheme(name: str) -> Scheme:
    return scheme_of(parse_quantization(FORMATS[name].config if name in FORMATS else None), "model.layers.0.x_proj")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def stored(name: str, part: str, n: int, k: int, seed: int = 0) -> tuple[Stored, Tensor]:
    """A matrix as the checkpoint's tensors by part, and what it means."""
    generator = torch.Generator().manual_seed(seed)
    raw = FORMATS[name].make(n, k, generator) if name in FORMATS else {"weight": random(n, k)}
    entries = [e for e in linear_entries("", "leaf", part, scheme(name)) if e.module]
    meant = meaning(raw)
    tensors = {e.part: raw[e.name.removeprefix(".")] for e in entries}
    return tensors, meant.bfloat16().float() if name in AS_BF16 else meant


def fill(leaf: Leaf | Stack, tensors: Stored) -> Stored:
    """The buffers of a leaf or a stack, filled from checkpoint tensors by part, as the loader does."""
    wanted = leaf.buffers() if isinstance(leaf, Stack) else leaf.buffers_wanted()
    out: Stored = {}
    for part, tensor in tensors.items():
        slot: Slot = leaf.slot(part)
        assert slot.says is None or tensor.tolist() == list(slot.says)
        for take, put in slot.moves:
            buffer = wanted[slot.buffer]
            held = out.setdefault(slot.buffer, torch.full(buffer.shape, 77).to(tensor.dtype))
            held[put] = tensor.view(slot.shape)[take]
    assert {name: tuple(t.shape) for name, t in out.items()} == {name: b.shape for name, b in wanted.items()}
    return out


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cut", ["columns", "rows", None])
def test_every_rank_holds_its_part(name: str, cut: str | None) -> None:
    """Two matrices stacked, over two ranks: the ranks' products together are those of the meaning."""
    first, q = stored(name, "q", 512, 256)
    second, k = stored(name, "k", 256, 256, seed=1)
    products, x = [], random(3, 256)
    for rank in range(2):
        mesh = Mesh(2, {"attn_tp": 2}, rank)
        columns, rows = ("attn_tp" if cut == which else None for which in ("columns", "rows"))
        parts = {"q": 512, "k": 256}
        leaf = Linear(Dim("in", 256), Dim("out", 768), parts, mesh, scheme=scheme(name), columns=columns, rows=rows)
        leaf.prepare(fill(leaf, first | second))
        products.append(leaf.forward(x[:, rank * 128 : rank * 128 + 128].contiguous() if rows else x))
    expected = [x @ q.T, x @ k.T]
    if cut == "columns":
        halves = [torch.cat([part.chunk(2, 1)[rank] for part in expected], 1) for rank in range(2)]
        for product, half in zip(products, halves, strict=True):
            torch.testing.assert_close(product, half, rtol=1e-4, atol=1e-4)
        return
    total = products[0] + products[1] if cut == "rows" else products[0]
    torch.testing.assert_close(total, torch.cat(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", ["columns", "rows"])
def test_a_bias_is_added_once(cut: str) -> None:
    tensors = {"o.weight": random(8, 6), "o.bias": random(8)}
    total = torch.zeros(2, 8)
    x = random(2, 6)
    for rank in range(2):
        mesh = Mesh(2, {"attn_tp": 2}, rank)
        columns, rows = ("attn_tp" if cut == which else None for which in ("columns", "rows"))
        leaf = Linear(Dim("in", 6), Dim("out", 8), {"o": 8}, mesh, bias=True, columns=columns, rows=rows)
        leaf.prepare(fill(leaf, tensors))
        if rows:
            total += leaf.forward(x[:, rank * 3 : rank * 3 + 3].contiguous())
        else:
            total[:, rank * 4 : rank * 4 + 4] = leaf.forward(x)
    torch.testing.assert_close(total, x @ tensors["o.weight"].T + tensors["o.bias"])


def test_copies_give_neighbours_the_same_rows() -> None:
    """Two key heads of 3 rows over four ranks."""
    weight = random(6, 5)
    for rank in range(4):
        mesh = Mesh(4, {"attn_tp": 4}, rank)
        leaf = Linear(Dim("in", 5), Dim("out", 12), {"k": 6}, mesh, columns="attn_tp", heads={"k": 3})
        assert leaf.slot("k.weight").shape == (6, 5)
        assert torch.equal(fill(leaf, {"k.weight": weight})["weight"], weight[rank // 2 * 3 : rank // 2 * 3 + 3])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fused", [False, True])
def test_experts_come_one_by_one_or_all_in_one_tensor(name: str, fused: bool) -> None:
    """Experts 2 and 3 of 5, the second half of each matrix's rows; fused tensors hold gate rows, then up rows."""
    if fused and any(field.rows == 0 for field in scheme(name).fields):
        pytest.skip("gate and up have a factor each, which no format puts into one tensor")
    every = {(e, p): stored(name, f"{e}.{p}", 256, 128, seed=e + 7 * (p == "up")) for e in range(5) for p in PARTS}
    tensors = {part: t for fields, _ in every.values() for part, t in fields.items()}
    if fused:
        keys = [field.key for field in scheme(name).fields]
        joint = {key: [torch.cat([tensors[f"{e}.{p}.{key}"] for p in PARTS]) for e in range(5)] for key in keys}
        tensors = {f"gate+up.{key}": torch.stack(parts) for key, parts in joint.items()}
    half = Span(256, 128, 128)
    stack = Stack("", scheme(name), {"gate": half, "up": half}, Span.whole(128), experts=Span(5, 2, 2))
    held = dequantized(stack.source(fill(stack, tensors))).float()
    expected = torch.stack([torch.cat([every[e, part][1][128:] for part in PARTS]) for e in (2, 3)])
    assert torch.equal(held, expected if name == "plain" else expected.bfloat16().float())


def test_blocks_of_gpt_oss_are_read_interleaved_and_cut_in_pairs() -> None:
    """Experts [E, 2I, K/32, 16] whose rows are gate and up in turn; the second rank's half of I is a run of rows."""
    blocks = torch.randint(256, (3, 16, 2, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scales = torch.randint(120, 130, (3, 16, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    quantization = parse_quantization({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]})
    kind = scheme_of(quantization, "model.layers.3.mlp.experts.gate_up_proj")
    assert scheme_of(quantization, "model.layers.3.self_attn.q_proj").label == "plain"
    stack = Stack("", kind, {"gate_up": Span(16, 8, 8)}, Span.whole(64), experts=Span(3, 1, 2), bias=True)
    bias = random(3, 16)
    tensors = fill(stack, {"gate_up.blocks": blocks, "gate_up.scales": scales, "gate_up.bias": bias})
    assert torch.equal(stack.bias(tensors), bias[1:, 8:])  # type: ignore[arg-type]
    expected = meaning({"blocks": blocks, "scales": scales})[1:, 8:]
    assert torch.equal(dequantized(stack.source(tensors)).float(), expected)


@pytest.mark.parametrize(("rows", "joined"), [(128, True), (96, False)])
def test_parts_that_share_a_block_of_factors_are_dequantized(rows: int, joined: bool) -> None:
    """Gate and up of 96 rows: the block of rows 0 to 127 would be of both, so the stack becomes bf16; down stays."""
    first, gate = stored("fp8-block", "gate", rows, 128)
    second, up = stored("fp8-block", "up", rows, 128, seed=1)
    third, down = stored("fp8-block", "down", 128, rows, seed=2)
    mlp = MLP(Dim("hidden", 128), rows, Mesh.single(), axis="dense_tp", scheme=scheme("fp8-block"))
    mlp.prepare(fill(mlp, first | second | third))
    parts = (mlp.weight.gate_up, mlp.weight.down) if joined else mlp.weight
    assert [part.kind for part in parts] == ["fp8-block" if joined else "dense", "fp8-block"]
    x = random(2, 128)
    if not joined:
        gate, up = (w.bfloat16().float() for w in (gate, up))
    expected = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    torch.testing.assert_close(mlp.forward(x), expected, rtol=1e-4, atol=1e-4)


def test_other_blocks_are_read_as_bf16() -> None:
    tensors = {"o.weight": random(7, 9).to(torch.float8_e4m3fn), "o.scale": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    stack = Stack("", Fp8Block((4, 8)), {"o": Span.whole(7)}, Span.whole(9))
    expected = tensors["o.weight"].float() * torch.kron(tensors["o.scale"], torch.ones(4, 8))[:7, :9]
    assert torch.equal(stack.source(fill(stack, tensors)), expected.bfloat16())  # type: ignore[arg-type]


def test_a_cut_within_a_group_names_the_sizes_that_are_fine() -> None:
    mesh = Mesh(4, {"attn_tp": 4})
    with pytest.raises(MeshError, match=r"in = 192 over attn_tp=4 leaves 48 .*groups of 32.*fit: 1, 2, 3, 6$"):
        Linear(Dim("in", 192), Dim("out", 8), {"o": 8}, mesh, rows="attn_tp", scheme=PackedInt(4, 32))
    with pytest.raises(MeshError, match=r"576 over attn_tp=4 leaves 144 .*groups of 128.*attn_tp that fit: 1$"):
        Linear(Dim("in", 128), Dim("out", 576), {"a": 576}, mesh, columns="attn_tp", scheme=Fp8Block())
    with pytest.raises(ConfigError, match=r"in = 100 is no multiple of 32"):
        Linear(Dim("in", 100), Dim("out", 8), {"o": 8}, Mesh.single(), scheme=PackedInt(4, 32))
    Linear(Dim("in", 100), Dim("out", 576), {"a": 576}, Mesh.single(), scheme=Fp8Block())


def test_a_global_factor_of_zero_is_refused() -> None:
    raw = FORMATS["nvfp4"].make(8, 32, torch.Generator().manual_seed(0))
    stack = Stack("", scheme("nvfp4"), {"o": Span.whole(8)}, Span.whole(32))
    names = {"packed": "weight_packed", "scale": "weight_scale", "global": "weight_global_scale"}
    tensors = fill(stack, {f"o.{key}": raw[suffix] for key, suffix in names.items()})
    tensors["global"][3] = 0
    with pytest.raises(CheckpointError, match="weight_global_scale is 0"):
        stack.source(tensors)


@pytest.mark.parametrize(
    ("size", "ranks", "unit", "parts"),
    [
        (2880, 4, 32, [736, 736, 704, 704]),  # GPT-OSS 120B: 90 blocks are 23, 23, 22, 22
        (2880, 3, 32, [960] * 3),
        (1408, 8, 128, [256, 256, 256, 128, 128, 128, 128, 128]),
        (1400, 4, 128, [384, 384, 384, 248]),  # the last block is short
        (2882, 4, 1, [736, 720, 720, 706]),
        (44, 2, 1, [22, 22]),
        (43, 4, 1, [11, 11, 11, 10]),
    ],
)
def test_intermediate_sizes_are_cut_in_whole_groups(size: int, ranks: int, unit: int, parts: list[int]) -> None:
    """The first rank has the most, which is what ``explain`` builds."""
    meshes = [Mesh(ranks, {"attn_dp": ranks, "moe_tp": ranks}, rank) for rank in range(ranks)]
    spans = [inner_span("moe_intermediate_size", size, mesh, "moe_tp", unit) for mesh in meshes]
    assert [span.length for span in spans] == parts
    assert [span.start for span in spans] == [sum(parts[:rank]) for rank in range(ranks)]
    assert max(parts) == parts[0]


def test_more_ranks_than_groups_are_refused() -> None:
    message = r"= 300 has 3 groups of 128 that share a scale, fewer than moe_tp=4; .*fit: 1, 2, 3$"
    with pytest.raises(MeshError, match=message):
        inner_span("moe_intermediate_size", 300, Mesh(4, {"attn_dp": 4, "moe_tp": 4}), "moe_tp", 128)
