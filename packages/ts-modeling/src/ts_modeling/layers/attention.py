"""Grouped-query attention over a paged cache of keys and values (arXiv 2305.13245).

Legend: T tokens, H query heads and J key heads of this rank, D head width, C fused projection (queries, with their
gates where there are any, then keys, then values).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from ts_kernels import attention, kv_cache, norm, rope

from ..kv import CacheGroup
from ..placement import OPAQUE, TOKENS, Boundary, Dim, Mesh, Shard, Spec
from ..quantization import PLAIN, Scheme
from .heads import Heads
from .leaf import Buffer, Leaf, Slot, cut
from .linear import Linear
from .rotary import RotaryTable
from .width_norm import SquareSums, WidthNorm


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Sizes and traits of one layer.

    ``qk_norm``: queries and keys are RMS-normed a head at a time, or over the full width of all heads; its gains are
    stored less ``norm_offset``. ``window`` 0 sees all. ``sinks``: one learned logit a head in the softmax's
    denominator. ``gated``: the query projection also gives a gate for each output, laid out head by head.
    """

    hidden: int
    inputs: int = 0
    """Width of what queries, keys and values are made of; 0 for ``hidden``."""
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["head", "width"] | None = None
    norm_offset: float = 0.0
    window: int = 0
    sinks: bool = False
    gated: bool = False
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    """Formats of ``qkv`` and ``o``, plain where left out."""

    @property
    def query_width(self) -> int:
        """Columns of the query projection for each head."""
        return self.head_dim * (2 if self.gated else 1)


def kv_group(shape: AttentionShape, layer: int, mesh: Mesh, dtype: torch.dtype) -> CacheGroup:
    """What one rank caches for one layer: keys and values, every token's or a window's."""
    each = (Heads.of(shape.heads, shape.kv_heads, mesh).keys, shape.head_dim)
    kind: Literal["full", "window"] = "window" if shape.window else "full"
    return CacheGroup(kind=kind, layers=(layer,), shapes=(each, each), dtype=dtype, window=shape.window)


class PagedAttention(Leaf):
    """Norms of heads, rotary positions, cache write, and attention of every query over its row's pages.

    The batch is that of this rank's ``attn_dp`` group, so tokens are cut there.
    """

    def __init__(self, shape: AttentionShape, fused: Dim, outputs: Dim, mesh: Mesh, rotary: RotaryTable) -> None:
        super().__init__()
        self.shape, self.rotary, self.scale = shape, rotary, shape.head_dim**-0.5
        self.heads = Heads.of(shape.heads, shape.kv_heads, mesh)
        keys = self.heads.keys * shape.head_dim
        self.widths = [self.heads.queries * shape.query_width, keys, keys]
        takes = Spec(TOKENS, fused, attn_dp=Shard("tokens"), attn_tp=Shard(fused.name))
        gives = Spec(TOKENS, outputs, attn_dp=Shard("tokens"), attn_tp=Shard(outputs.name))
        self.boundary = Boundary((takes, OPAQUE, OPAQUE), (gives,))
        self.sinks: Tensor | None = None

    def forward(self, qkv_TC: Tensor, batch: Any, cache: Any) -> Tensor:
        """Fused projection [T, C], the batch and this layer's keys and values -> [T, H*D]."""
        q_TC, k_TC, v_TC = torch.split(qkv_TC, self.widths, dim=1)
        heads, width = self.heads, self.shape.head_dim
        q_THD = q_TC.view(-1, heads.queries, self.shape.query_width)
        k_TJD, v_TJD = k_TC.view(-1, heads.keys, width), v_TC.view(-1, heads.keys, width)
        gate_THD = q_THD[..., width:] if self.shape.gated else None
        q_THD, k_TJD = self._normed(q_THD[..., :width], k_TJD)
        rope.apply_halves(q_THD, self.cos_sin, batch.positions)
        rope.apply_halves(k_TJD, self.cos_sin, batch.positions)
        kv_cache.write_kv(k_TJD, v_TJD, batch.slot_mapping, *cache)
        out_TV = self._attend(q_THD, batch, cache)
        return out_TV if gate_THD is None else out_TV * gate_THD.reshape(out_TV.shape).sigmoid()

    def _normed(self, q_THD: Tensor, k_TJD: Tensor) -> tuple[Tensor, Tensor]:
        if self.shape.qk_norm != "head":
            return q_THD, k_TJD
        width, eps = self.shape.head_dim, self.shape.eps
        q = norm.rms_norm(q_THD.reshape(-1, width), self.q_norm, eps).view(q_THD.shape)
        return q, norm.rms_norm(k_TJD.reshape(-1, width), self.k_norm, eps).view(k_TJD.shape)

    def _attend(self, q_THD: Tensor, batch: Any, cache: Any) -> Tensor:
        decodes = batch.n_decode
        if decodes == q_THD.shape[0]:
            return self._decode(q_THD, batch, *cache)
        if decodes == 0:
            return self._prefill(q_THD, batch, *cache)
        return torch.cat((self._decode(q_THD[:decodes], batch, *cache), self._prefill(q_THD[decodes:], batch, *cache)))

    def _decode(self, q_THD: Tensor, batch: Any, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        tables, lengths, window = batch.decode_block_tables, batch.decode_seq_lens, self.shape.window
        return attention.decode(q_THD, k_cache, v_cache, tables, lengths, self.scale, window=window, sinks=self.sinks)

    def _prefill(self, q_THD: Tensor, batch: Any, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        tables, lengths, window = batch.prefill_block_tables, batch.prefill_seq_lens, self.shape.window
        cu_q, scale = batch.prefill_cu_q, self.scale
        return attention.prefill(q_THD, k_cache, v_cache, cu_q, tables, lengths, scale, window=window, sinks=self.sinks)

    def begin(self) -> None:
        """Make the rotary table, unless another layer has."""
        self.cos_sin = self.rotary.cos_sin

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Gains of the norms of heads, and the sinks of this rank's heads."""
        out: dict[str, Buffer] = {}
        if self.shape.qk_norm == "head":
            init: Literal["ones", "zeros"] = "zeros" if self.shape.norm_offset else "ones"
            out |= {name: Buffer((self.shape.head_dim,), init=init) for name in ("q_norm", "k_norm")}
        return out | ({"sinks": Buffer((self.heads.queries,), init="zeros")} if self.shape.sinks else {})

    def slot(self, part: str) -> Slot:
        """``q_norm``, ``k_norm`` or ``sinks``."""
        if part == "sinks":
            return Slot(part, (self.shape.heads,), (cut(self.heads.first_query, self.heads.queries),))
        return Slot(part, (self.shape.head_dim,))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Hold all of it in float32."""
        if self.shape.qk_norm == "head":
            self.q_norm, self.k_norm = (tensors.pop(n).float() + self.shape.norm_offset for n in ("q_norm", "k_norm"))
        if self.shape.sinks:
            self.sinks = tensors.pop("sinks").float()


class GroupedAttention(nn.Module):
    """Projections around ``PagedAttention``, heads cut over ``attn_tp``."""

    def __init__(self, shape: AttentionShape, mesh: Mesh, *, rotary: RotaryTable) -> None:
        super().__init__()
        heads = Heads.of(shape.heads, shape.kv_heads, mesh)
        keys = shape.kv_heads * shape.head_dim
        parts = {"q": shape.heads * shape.query_width, "k": keys, "v": keys}
        hidden, fused = Dim("hidden", shape.hidden), Dim("qkv_heads", parts["q"] + 2 * keys * heads.copies)
        source = Dim("attention_inputs", shape.inputs) if shape.inputs else hidden
        outputs = Dim("value_heads", shape.heads * shape.head_dim)
        schemes = {name: shape.schemes.get(name, PLAIN) for name in ("qkv", "o")}
        self.qkv = Linear(
            source,
            fused,
            parts,
            mesh,
            columns="attn_tp",
            bias=shape.bias,
            scheme=schemes["qkv"],
            heads={"k": shape.head_dim, "v": shape.head_dim},
        )
        self.sums: SquareSums | None = None
        if shape.qk_norm == "width":
            widths = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim)
            mine = (heads.queries * shape.head_dim, heads.keys * shape.head_dim)
            starts = (heads.first_query * shape.head_dim, heads.first_key * shape.head_dim)
            self.sums = SquareSums(fused, mine, (1, heads.copies))
            self.norm = WidthNorm(fused, widths, mine, starts, shape.eps)
        self.attend = PagedAttention(shape, fused, outputs, mesh, rotary)
        self.o = Linear(
            outputs, hidden, {"o": shape.hidden}, mesh, rows="attn_tp", bias=shape.out_bias, scheme=schemes["o"]
        )

    def forward(self, x_TD: Tensor, batch: Any, cache: Any) -> Tensor:
        """[T, D] -> [T, D], a Partial sum over ``attn_tp``."""
        qkv_TC = self.qkv(x_TD)
        if self.sums is not None:
            qkv_TC = self.norm(qkv_TC, self.sums(qkv_TC))
        out: Tensor = self.o(self.attend(qkv_TC, batch, cache))
        return out
