"""Typed configuration of EAGLE3's heads with latent attention."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ...configuration import Width
from ...layers import Yarn
from ..drafts.config import DraftConfig, parse_draft


class Eagle3MLAConfig(DraftConfig, frozen=True, kw_only=True):
    """A head for DeepSeek V3 and Kimi; fields of experts are its target's and not read."""

    q_lora_rank: Width | None = None
    kv_lora_rank: Width
    qk_nope_head_dim: Width
    qk_rope_head_dim: Annotated[int, msgspec.Meta(ge=2, le=1 << 16, multiple_of=2)]
    v_head_dim: Width

    @property
    def softmax_scale(self) -> float:
        """What query-key products are multiplied by, YaRN's magnitude included."""
        gain = self.rope.scaling.softmax_gain if isinstance(self.rope.scaling, Yarn) else 1.0
        return float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * gain)


def parse_config(raw: Mapping[str, Any]) -> Eagle3MLAConfig:
    """Read the content of ``config.json``. Raises ``ConfigError`` naming the field."""
    heads = {"head_dim": "qk_rope_head_dim", "num_key_value_heads": "num_attention_heads"}
    return parse_draft(Eagle3MLAConfig, raw, names=heads)  # what turns of a head, and as many heads of keys
