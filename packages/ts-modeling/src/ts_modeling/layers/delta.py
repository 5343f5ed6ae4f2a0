"""Gated delta net: linear attention with one state a request (arXiv 2412.06464), as in Qwen 3.5.

Legend: T tokens, H key heads and G value heads of this rank, K key width, V value width, W width of the convolution,
C its channels on this rank (queries, keys, values), F fused projection (those channels, then output gates).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from ts_kernels import linear_attention

from ..kv import CacheGroup
from ..placement import OPAQUE, TOKENS, Boundary, Dim, Mesh, Shard, Spec
from ..quantization import PLAIN, Scheme
from .heads import Heads
from .leaf import Buffer, Leaf, Slot, cut
from .linear import Linear

FIELDS: Final = ("linear_num_value_heads", "linear_num_key_heads")


@dataclass(frozen=True, kw_only=True)
class DeltaShape:
    """Sizes of one layer; ``schemes``: formats of ``qkvz``, ``ba`` and ``o``, plain where left out."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    eps: float
    schemes: Mapping[str, Scheme] = field(default_factory=dict)

    def heads(self, mesh: Mesh) -> Heads:
        """Value heads (as queries) and key heads of one rank. Raises ``MeshError``."""
        return Heads.of(self.value_heads, self.key_heads, mesh, FIELDS)

    def widths(self, heads: Heads) -> list[int]:
        """Channels of queries, keys and values on one rank."""
        keys = heads.keys * self.key_dim
        return [keys, keys, heads.queries * self.value_dim]


def state_group(shape: DeltaShape, layer: int, mesh: Mesh) -> CacheGroup:
    """What one rank holds for each request: the convolution's last inputs and the recurrent state, in float32."""
    heads = shape.heads(mesh)
    states = (shape.kernel - 1, sum(shape.widths(heads))), (heads.queries, shape.key_dim, shape.value_dim)
    return CacheGroup(kind="state", layers=(layer,), shapes=states, dtype=torch.float32)


class DeltaRule(Leaf):
    """Convolution, delta rule and gated norm over the rows' states, which are updated in place.

    The batch is that of this rank's ``attn_dp`` group, so tokens are cut there.
    """

    def __init__(self, shape: DeltaShape, fused: Dim, scores: Dim, outputs: Dim, mesh: Mesh) -> None:
        super().__init__()
        self.shape, self.heads = shape, shape.heads(mesh)
        self.widths = shape.widths(self.heads)
        self.channels = sum(self.widths)
        takes = [Spec(TOKENS, d, attn_dp=Shard("tokens"), attn_tp=Shard(d.name)) for d in (fused, scores, outputs)]
        self.boundary = Boundary((takes[0], takes[1], OPAQUE, OPAQUE), (takes[2],))

    def forward(self, qkvz_TF: Tensor, ba_T2G: Tensor, batch: Any, cache: Any) -> Tensor:
        """Fused projection [T, F], rates and decays [T, 2G], the batch and this layer's states -> [T, G*V]."""
        decodes, tokens = batch.n_decode, qkvz_TF.shape[0]
        x_TC = qkvz_TF[:, : self.channels]
        if decodes == tokens:
            out_TGV = self._decode(x_TC, ba_T2G, batch, *cache)
        elif decodes == 0:
            out_TGV = self._prefill(x_TC, ba_T2G, batch, *cache)
        else:
            first = self._decode(x_TC[:decodes], ba_T2G[:decodes], batch, *cache)
            out_TGV = torch.cat((first, self._prefill(x_TC[decodes:], ba_T2G[decodes:], batch, *cache)))
        z_TV = qkvz_TF[:, self.channels :].reshape(-1, self.shape.value_dim)
        out = linear_attention.gated_rms_norm(out_TGV.view(z_TV.shape), z_TV, self.norm, self.shape.eps)
        return out.view(tokens, self.widths[2])

    def _decode(self, x_TC: Tensor, ba_T2G: Tensor, batch: Any, conv: Tensor, states: Tensor) -> Tensor:
        slots = batch.states.decode
        parts = self._split(linear_attention.causal_conv_step(x_TC, self.conv, conv, slots), ba_T2G)
        return linear_attention.gated_delta_step(*parts, self.a_log, self.dt_bias, states, slots)

    def _prefill(self, x_TC: Tensor, ba_T2G: Tensor, batch: Any, conv: Tensor, states: Tensor) -> Tensor:
        slots, fresh, cu_q = batch.states.prefill, batch.states.fresh, batch.prefill_cu_q
        parts = self._split(linear_attention.causal_conv(x_TC, self.conv, conv, slots, cu_q, fresh), ba_T2G)
        return linear_attention.gated_delta(*parts, self.a_log, self.dt_bias, states, slots, cu_q, fresh)

    def _split(self, x_TC: Tensor, ba_T2G: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys [T, H, K], values [T, G, V], decays and rates [T, G]."""
        heads, s = self.heads, self.shape
        q, k, v = torch.split(x_TC, self.widths, dim=1)
        b_TG, a_TG = ba_T2G[:, : heads.queries], ba_T2G[:, heads.queries :]
        q_THK, k_THK = q.view(-1, heads.keys, s.key_dim), k.view(-1, heads.keys, s.key_dim)
        return q_THK, k_THK, v.view(-1, heads.queries, s.value_dim), a_TG.contiguous(), b_TG.contiguous()

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The convolution's kernels, decay and step of each value head, and the norm's gain."""
        each = (self.heads.queries,)
        return {
            "conv": Buffer((self.channels, 1, self.shape.kernel)),
            "a_log": Buffer(each, init="zeros"),
            "dt_bias": Buffer(each, init="zeros"),
            "norm": Buffer((self.shape.value_dim,), init="ones"),
        }

    def slot(self, part: str) -> Slot:
        """``conv``, ``a_log``, ``dt_bias`` or ``norm``."""
        s, heads = self.shape, self.heads
        if part == "norm":
            return Slot(part, (s.value_dim,))
        if part != "conv":
            return Slot(part, (s.value_heads,), (cut(heads.first_query, heads.queries),))
        keys = s.key_heads * s.key_dim
        starts = (
            heads.first_key * s.key_dim,
            keys + heads.first_key * s.key_dim,
            2 * keys + heads.first_query * s.value_dim,
        )
        puts = (0, self.widths[0], 2 * self.widths[0])
        first, *more = (((cut(t, n),), (cut(p, n),)) for t, p, n in zip(starts, puts, self.widths, strict=True))
        return Slot(part, (2 * keys + s.value_heads * s.value_dim, 1, s.kernel), *first, more=tuple(more))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Hold all of it in float32 but the convolution."""
        self.conv = tensors.pop("conv")[:, 0].contiguous()
        self.a_log, self.dt_bias, self.norm = (tensors.pop(name).float() for name in ("a_log", "dt_bias", "norm"))


class GatedDeltaNet(nn.Module):
    """Projections around ``DeltaRule``, heads cut over ``attn_tp``."""

    def __init__(self, shape: DeltaShape, mesh: Mesh) -> None:
        super().__init__()
        keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
        hidden, fused = (
            Dim("hidden", shape.hidden),
            Dim("delta_heads", 2 * keys * shape.heads(mesh).copies + 2 * values),
        )
        scores, outputs = Dim("delta_scores", 2 * shape.value_heads), Dim("delta_values", values)
        schemes = {name: shape.schemes.get(name, PLAIN) for name in ("qkvz", "ba", "o")}
        self.qkvz = Linear(
            hidden,
            fused,
            {"q": keys, "k": keys, "v": values, "z": values},
            mesh,
            columns="attn_tp",
            scheme=schemes["qkvz"],
            heads={"q": shape.key_dim, "k": shape.key_dim},
        )
        each = {"b": shape.value_heads, "a": shape.value_heads}
        self.ba = Linear(hidden, scores, each, mesh, columns="attn_tp", scheme=schemes["ba"])
        self.rule = DeltaRule(shape, fused, scores, outputs, mesh)
        self.o = Linear(outputs, hidden, {"o": shape.hidden}, mesh, rows="attn_tp", scheme=schemes["o"])

    def forward(self, x_TD: Tensor, batch: Any, cache: Any) -> Tensor:
        """[T, D] -> [T, D], a Partial sum over ``attn_tp``."""
        out: Tensor = self.o(self.rule(self.qkvz(x_TD), self.ba(x_TD), batch, cache))
        return out
