"""Multi-head latent attention over a paged cache of latents (DeepSeek-V2, arXiv 2405.04434).

Legend: T tokens, H heads of this rank, N no-position width, R rotary width, V value width, L latent width,
Q query latent width, C fused projection (Q + L + R, or L + R without query latent).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from ts_kernels import gemm, kv_cache, mla, rope

from ..placement import OPAQUE, TOKENS, Boundary, Dim, Mesh, Replicate, Shard, Spec
from ..quantization import PLAIN, Scheme, dequantized
from .leaf import Buffer, Builder, Leaf, Piece, Slot
from .linear import Linear
from .norm import HeadColumnsNorm
from .rotary import RotaryTable
from .stack import Span, Stack, local_size, span


@dataclass(frozen=True, kw_only=True)
class MLAShape:
    """Widths of one attention layer; ``q_latent`` None projects queries directly.

    ``schemes``: formats of ``qkv_a``, ``q``, ``kv_b`` and ``o``, plain where left out.
    """

    hidden: int
    inputs: int = 0
    """Width of what latents and queries are made of; 0 for ``hidden``."""
    heads: int
    q_latent: int | None
    kv_latent: int
    nope: int
    rope: int
    value: int
    latent_eps: float
    scale: float
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    def scheme(self, name: str) -> Scheme:
        """Format of one projection."""
        return self.schemes.get(name, PLAIN)


class LatentAttention(Leaf):
    """Rotary positions, cache write, and attention of every query over its row's pages.

    ``qkv`` is the fused projection; its last L + R columns are this layer's new cache entries. The batch is that of
    this rank's ``attn_dp`` group, so tokens are cut there.
    """

    def __init__(
        self, shape: MLAShape, queries: Dim, fused: Dim, outputs: Dim, mesh: Mesh, rotary: RotaryTable
    ) -> None:
        super().__init__()
        self.shape, self.rotary = shape, rotary
        heads, per_head = span("num_attention_heads", shape.heads, mesh, "attn_tp"), shape.nope + shape.value
        scheme = shape.scheme("kv_b")
        rows = span("rows of kv_b", shape.heads * per_head, mesh, "attn_tp", scheme.row_unit)
        self.heads = heads.length
        self.kv_b_stack = Stack("kv_b.", scheme, {"kv_b": rows}, Span.whole(shape.kv_latent, "kv_lora_rank"))
        self.width = shape.nope + shape.rope
        self.latent_start = shape.q_latent or 0
        self.boundary = Boundary(
            (
                Spec(TOKENS, queries, attn_dp=Shard("tokens"), attn_tp=Shard(queries.name)),
                Spec(TOKENS, fused, attn_dp=Shard("tokens"), attn_tp=Replicate()),
                OPAQUE,
                OPAQUE,
            ),
            (Spec(TOKENS, outputs, attn_dp=Shard("tokens"), attn_tp=Shard(outputs.name)),),
        )

    def forward(self, q_TQ: Tensor, qkv_TC: Tensor, batch: Any, cache: Tensor) -> Tensor:
        """Queries [T, H*(N+R)], fused projection [T, C], the batch and this layer's cache -> [T, H*V]."""
        q_THQ = q_TQ.view(-1, self.heads, self.width)
        positions_T, scale = batch.positions, self.shape.scale
        rope.apply_interleaved(q_THQ, self.cos_sin, positions_T)
        kv_cache.write_latent(
            qkv_TC[:, self.latent_start :],
            self.norm_weight,
            self.shape.latent_eps,
            self.cos_sin,
            positions_T,
            batch.slot_mapping,
            cache,
        )
        decodes = batch.n_decode
        if decodes == q_THQ.shape[0]:
            return mla.decode(q_THQ, cache, self.kv_b, batch.decode_block_tables, batch.decode_seq_lens, scale)
        if decodes == 0:
            return self._prefill(q_THQ, batch, cache)
        first = mla.decode(q_THQ[:decodes], cache, self.kv_b, batch.decode_block_tables, batch.decode_seq_lens, scale)
        return torch.cat((first, self._prefill(q_THQ[decodes:], batch, cache)))

    def _prefill(self, q_THQ: Tensor, batch: Any, cache: Tensor) -> Tensor:
        tables, lengths = batch.prefill_block_tables, batch.prefill_seq_lens
        return mla.prefill(q_THQ, cache, self.kv_b, batch.prefill_cu_q, tables, lengths, self.shape.scale)

    def begin(self) -> None:
        """Make the rotary table, unless another layer has."""
        self.cos_sin = self.rotary.cos_sin

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The latent's gain, and the up-projection of this rank's heads."""
        return {"norm": Buffer((self.shape.kv_latent,), init="ones")} | self.kv_b_stack.buffers()

    def slot(self, part: str) -> Slot:
        """``norm``, or ``kv_b`` with a key after it."""
        return Slot("norm", (self.shape.kv_latent,)) if part == "norm" else self.kv_b_stack.slot(part)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Split the up-projection into the forms that decoding and prefill want; no kernel reads it quantized."""
        s = self.shape
        self.norm_weight = tensors.pop("norm").float()
        self.kv_b = mla.prepare_kv_b(dequantized(self.kv_b_stack.source(tensors)), self.heads, s.nope, s.value)

    def layout(self) -> Hashable:
        """The widths of the up-projection, and its stack's."""
        return type(self), self.heads, self.shape.nope, self.shape.value, self.kv_b_stack.layout()

    def pieces(self, types: Mapping[str, torch.dtype]) -> Sequence[Piece]:
        """The gain, and rows of some heads at a time."""
        gain = Piece({"norm": ()}, "norm")
        return (gain, *self.kv_b_stack.pieces(rows=self.shape.nope + self.shape.value))

    def builder(self) -> Builder:
        """Packs heads."""
        return LatentBuilder(self)


class LatentBuilder(Builder):
    """The up-projection of some heads at a time: what is dequantized for it soon goes again."""

    def __init__(self, leaf: LatentAttention) -> None:
        self.leaf = leaf
        self.heads = mla.KvBBuilder(leaf.heads, leaf.shape.nope, leaf.shape.value)

    def take(self, piece: Piece, tensors: dict[str, Tensor], runs: gemm.Runs) -> None:
        """The gain, or rows of heads."""
        if piece.matrix == "norm":
            self.leaf.norm_weight = tensors["norm"].to(torch.float32, copy=True)
            return
        rows = dequantized(self.leaf.kv_b_stack.source(tensors))
        self.heads.put(piece.first // (self.leaf.shape.nope + self.leaf.shape.value), rows)

    def finish(self) -> None:
        """Give the leaf its up-projection."""
        self.leaf.kv_b = self.heads.finish()


class MLAAttention(nn.Module):
    """Projections around ``LatentAttention``, heads cut over ``attn_tp``."""

    def __init__(self, shape: MLAShape, mesh: Mesh, *, rotary: RotaryTable, dtype: torch.dtype) -> None:
        super().__init__()
        local_size("num_attention_heads", shape.heads, mesh, "attn_tp")  # before the columns that are made of them
        hidden = Dim("hidden", shape.hidden)
        queries = Dim("query_heads", shape.heads * (shape.nope + shape.rope))
        outputs = Dim("value_heads", shape.heads * shape.value)
        parts = {"q_a": shape.q_latent} if shape.q_latent else {}
        parts["kv_a"] = shape.kv_latent + shape.rope
        fused = Dim("latents", sum(parts.values()))
        source = Dim("attention_inputs", shape.inputs) if shape.inputs else hidden
        self.qkv_a = Linear(source, fused, parts, mesh, scheme=shape.scheme("qkv_a"))
        self.q_a_norm: HeadColumnsNorm | None = None
        if shape.q_latent:
            source = Dim("query_latent", shape.q_latent)
            self.q_a_norm = HeadColumnsNorm(fused, source, shape.latent_eps, dtype)
        assert queries.size is not None
        self.q = Linear(source, queries, {"q": queries.size}, mesh, columns="attn_tp", scheme=shape.scheme("q"))
        self.attend = LatentAttention(shape, queries, fused, outputs, mesh, rotary)
        self.o = Linear(outputs, hidden, {"o": shape.hidden}, mesh, rows="attn_tp", scheme=shape.scheme("o"))

    def forward(self, x_TD: Tensor, batch: Any, cache: Tensor) -> Tensor:
        """[T, D] -> [T, D], a Partial sum over ``attn_tp``."""
        qkv_TC = self.qkv_a(x_TD)
        q_TQ = self.q(x_TD if self.q_a_norm is None else self.q_a_norm(qkv_TC))
        out: Tensor = self.o(self.attend(q_TQ, qkv_TC, batch, cache))
        return out
