"""GPT-OSS for one device; the compiler places it on a mesh."""

import torch
from ts_kernels import moe

from ...kv import KvSpec
from ...layers import AttentionShape, Experts, GroupedAttention, Mixture, MoEShape, RotaryTable, SoftmaxRouter
from ...placement import Mesh
from ..decoder import Decoder, DecoderLayer
from ..parts import attention_shape, grouped_kv
from .config import GptOssConfig


class GptOss(Decoder):
    """Attention with sinks, over a window in every other layer; routed experts with biases and a clamped SwiGLU."""

    def __init__(
        self, config: GptOssConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        layers = (_layer(config, i, mesh, dtype, rotary) for i in range(config.num_hidden_layers))
        super().__init__(config, mesh, layers, dtype=dtype)


def _layer(config: GptOssConfig, index: int, mesh: Mesh, dtype: torch.dtype, rotary: RotaryTable) -> DecoderLayer:
    shape = expert_shape(config, index)
    attention = GroupedAttention(shape_of(config, index), mesh, rotary=rotary)
    mixture = Mixture(SoftmaxRouter(shape, bias=True), Experts(shape, mesh))
    return DecoderLayer(config, index, attention, mixture, dtype=dtype)


def expert_shape(config: GptOssConfig, layer: int) -> MoEShape:
    """Of one layer's experts; plain ones lie transposed, MXFP4 ones do not."""
    name = f"model.layers.{layer}.mlp.experts"
    return MoEShape(
        hidden=config.hidden_size,
        experts=config.num_local_experts,
        intermediate=config.intermediate_size,
        top_k=config.num_experts_per_tok,
        names=("num_local_experts", "intermediate_size"),
        normalize=True,
        scheme=config.format_of(name, "gate_up_proj"),
        down_scheme=config.format_of(name, "down_proj"),
        bias=True,
        interleaved=True,
        transposed=True,
        activation=moe.Gated("swiglu_clamped", config.swiglu_alpha, config.swiglu_limit),
    )


def shape_of(config: GptOssConfig, layer: int) -> AttentionShape:
    """Of one layer's attention."""
    bias, window = config.attention_bias, config.window(layer)
    return attention_shape(config, layer, bias=bias, out_bias=bias, window=window, sinks=True)


def kv_spec(config: GptOssConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of every layer, of a window in every other one."""
    return grouped_kv((shape_of(config, i) for i in range(config.num_hidden_layers)), mesh, dtype)
