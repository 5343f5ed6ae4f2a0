"""DeepSeek V3's layer for multi-token prediction on one device; the compiler places it on a mesh."""

import msgspec
import torch

from ....kv import KvSpec
from ....layers import RotaryTable
from ....placement import Mesh
from ....quantization import scheme_of
from ...mtp import MultiToken
from ..model import DecoderLayer
from ..model import kv_spec as target_kv
from .config import KimiK25MTPConfig


class KimiK25MTP(MultiToken):
    """A draft that is one decoder layer of its target; the projection of pairs is never stored quantized."""

    def __init__(
        self, config: KimiK25MTPConfig, mesh: Mesh, *, dtype: torch.dtype, device: torch.device, positions: int
    ) -> None:
        rotary = RotaryTable(config.qk_rope_head_dim, positions, config.rope, device)
        layer = DecoderLayer(config, config.num_hidden_layers, mesh, dtype=dtype, rotary=rotary, starts=True)
        super().__init__(config, layer, mesh, dtype=dtype, head=scheme_of(config.quantization, "lm_head"))


def kv_spec(config: KimiK25MTPConfig, mesh: Mesh, dtype: torch.dtype) -> KvSpec:
    """One latent and one rotary key of the one layer."""
    return target_kv(msgspec.structs.replace(config, num_hidden_layers=1), mesh, dtype)
