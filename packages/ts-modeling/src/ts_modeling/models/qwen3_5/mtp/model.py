"""Qwen 3.5's layer for multi-token prediction on one device; the compiler places it on a mesh."""

import torch

from ....kv import KvSpec, group_layers
from ....layers import GroupedAttention, RotaryTable, kv_group
from ....placement import Mesh
from ....quantization import PLAIN
from ...decoder import DecoderLayer
from ...mtp import MultiToken
from ..model import OFFSET, full_shape, mlp_of
from .config import Qwen35MTPConfig

LAYERS = "mtp.layers"


class Qwen35MTP(MultiToken):
    """A draft that is one decoder layer with gated attention, and its target's MLP or mixture."""

    def __init__(
        self, config: Qwen35MTPConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.rotary_width, positions, config.rope, device)
        attention = GroupedAttention(full_shape(config, 0, layers=LAYERS), mesh, rotary=rotary)
        mlp = mlp_of(config, 0, mesh, layers=LAYERS)
        layer = DecoderLayer(config, 0, attention, mlp, dtype=dtype, offset=OFFSET)
        head = PLAIN if config.tie_word_embeddings else config.format_of("lm_head")
        project = config.format_of("mtp.fc")
        super().__init__(config, layer, mesh, dtype=dtype, project=project, head=head, offset=OFFSET)


def kv_spec(config: Qwen35MTPConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """Keys and values of the one layer."""
    return group_layers([kv_group(full_shape(config, 0, layers=LAYERS), 0, mesh, dtype)])
